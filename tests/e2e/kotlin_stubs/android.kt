// The part of Android's API that the bundle's Kotlin meets, written from its documentation: for compiling, not for running.
@file:Suppress("unused", "UNUSED_PARAMETER")

package android.content.res

import java.io.InputStream

open class AssetManager {
    fun open(path: String): InputStream = TODO()
    fun list(path: String): Array<String>? = TODO()
}
