package edgekit.android

import android.graphics.Bitmap
import android.graphics.ImageDecoder
import edgekit.Picture

/** Decodes a file to upright RGB: ImageDecoder applies EXIF orientation; transparency is laid on white. */
fun decode(source: ImageDecoder.Source): Picture {
    val bitmap = ImageDecoder.decodeBitmap(source) { decoder, _, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        decoder.isUnpremultipliedRequired = true
    }
    return pictureOf(bitmap)
}

/** The pixels of a bitmap in software memory, transparency laid on white. */
fun pictureOf(bitmap: Bitmap): Picture {
    val pixels = IntArray(bitmap.width * bitmap.height) // ARGB, not premultiplied
    bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
    val rgb = ByteArray(3 * pixels.size)
    for ((i, pixel) in pixels.withIndex()) {
        val alpha = pixel ushr 24
        for (c in 0..2) {
            val level = pixel ushr (16 - 8 * c) and 255
            rgb[3 * i + c] = ((level * alpha + 255 * (255 - alpha) + 127) / 255).toByte()
        }
    }
    return Picture(bitmap.width, bitmap.height, rgb)
}
