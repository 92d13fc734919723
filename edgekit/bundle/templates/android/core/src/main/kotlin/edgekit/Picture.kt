package edgekit

/** Upright 8-bit RGB, row by row: [rgb] holds width * height * 3 bytes. */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        require(width > 0 && height > 0 && rgb.size == 3 * width * height) { "$width x $height pixels in ${rgb.size} bytes" }
    }

    companion object {
        /** Reads a binary PPM file of 8 bits. */
        fun fromPpm(file: ByteArray): Picture {
            var at = 0
            fun word(): String {
                while (at < file.size && file[at] <= ' '.code) at++
                val start = at
                while (at < file.size && file[at] > ' '.code) at++
                return String(file, start, at - start, Charsets.US_ASCII)
            }
            require(word() == "P6") { "no binary PPM file" }
            val width = word().toInt()
            val height = word().toInt()
            require(word() == "255") { "not 8 bits" }
            return Picture(width, height, file.copyOfRange(at + 1, file.size))
        }
    }
}
