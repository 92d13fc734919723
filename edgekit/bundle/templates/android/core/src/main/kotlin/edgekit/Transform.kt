package edgekit

import kotlin.math.round

enum class Layout { NCHW, NHWC }

/** How a picture becomes `pixel_values`: preprocessor_config.json of the bundle. */
class Transform(
    val height: Int,
    val width: Int,
    private val shortestEdge: Int?, // null: the picture is resized whole, without a crop
    private val normalize: Boolean, // false: the graph does it
    private val mean: FloatArray,
    private val deviation: FloatArray,
) {
    /** Shorter edge to its length, more where the crop needs more; then the middle. Halves are rounded to even. */
    fun crop(picture: Picture): Picture {
        if (shortestEdge == null) return picture.resized(width, height)
        val longer = (shortestEdge.toDouble() * maxOf(picture.width, picture.height) / minOf(picture.width, picture.height)).toInt()
        var (w, h) = if (picture.width <= picture.height) shortestEdge to longer else longer to shortestEdge
        val missing = maxOf(width.toDouble() / w, height.toDouble() / h)
        if (missing > 1) {
            w = maxOf(width, round(w * missing).toInt())
            h = maxOf(height, round(h * missing).toInt())
        }
        require(w.toLong() * h <= 100_000_000) { "the picture is too thin" }
        val full = picture.resized(w, h)
        val left = round((w - width) / 2.0).toInt()
        val top = round((h - height) / 2.0).toInt()
        val rgb = ByteArray(3 * width * height)
        for (y in 0 until height) full.rgb.copyInto(rgb, 3 * width * y, 3 * ((top + y) * w + left), 3 * ((top + y) * w + left + width))
        return Picture(width, height, rgb)
    }

    /** float32 for the model: (3, H, W) for ONNX Runtime, (H, W, 3) for LiteRT. */
    fun pixelValues(crop: Picture, layout: Layout): FloatArray {
        val plane = width * height
        val values = FloatArray(3 * plane)
        for (i in 0 until plane) for (c in 0..2) {
            val level = (crop.rgb[3 * i + c].toInt() and 255).toFloat()
            val value = if (normalize) (level / 255 - mean[c]) / deviation[c] else level
            values[if (layout == Layout.NCHW) c * plane + i else 3 * i + c] = value
        }
        return values
    }

    companion object {
        /** Reads preprocessor_config.json. */
        fun fromJson(json: String): Transform {
            fun find(key: String, pattern: String): String =
                requireNotNull(Regex("\"$key\"\\s*:\\s*$pattern").find(json)) { "no $key" }.groupValues[1]
            val shortestEdge = Regex("\"shortest_edge\"\\s*:\\s*(\\d+)").find(json)?.groupValues?.get(1)?.toInt()
            fun numbers(key: String): FloatArray = find(key, "\\[([^\\]]*)]").split(',').map { it.trim().toFloat() }.toFloatArray()
            return Transform(
                find("height", "(\\d+)").toInt(), find("width", "(\\d+)").toInt(), shortestEdge,
                find("do_normalize", "(true|false)").toBoolean(), numbers("image_mean"), numbers("image_std"),
            )
        }
    }
}
