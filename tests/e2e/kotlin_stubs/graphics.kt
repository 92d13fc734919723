// As android.kt.
package android.graphics

import android.content.ContentResolver
import android.net.Uri
import java.nio.ByteBuffer

class Bitmap {
    val width: Int get() = TODO()
    val height: Int get() = TODO()
    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int): Unit = TODO()
}

class ImageDecoder {
    class Source
    class ImageInfo
    fun interface OnHeaderDecodedListener {
        fun onHeaderDecoded(decoder: ImageDecoder, info: ImageInfo, source: Source)
    }

    var allocator: Int = 0
    var isUnpremultipliedRequired: Boolean = false

    companion object {
        const val ALLOCATOR_SOFTWARE = 1
        @JvmStatic fun createSource(buffer: ByteBuffer): Source = TODO()
        @JvmStatic fun createSource(resolver: ContentResolver, uri: Uri): Source = TODO()
        @JvmStatic fun decodeBitmap(source: Source, listener: OnHeaderDecodedListener): Bitmap = TODO()
    }
}
