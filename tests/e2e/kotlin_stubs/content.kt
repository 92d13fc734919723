// As android.kt.
package android.content

import android.content.res.AssetManager
import android.net.Uri

open class Context {
    val assets: AssetManager get() = TODO()
    val contentResolver: ContentResolver get() = TODO()
}

class ContentResolver

class ClipData {
    class Item {
        val uri: Uri get() = TODO()
    }

    val itemCount: Int get() = TODO()
    fun getItemAt(index: Int): Item = TODO()
}

class Intent(action: String) {
    val clipData: ClipData? get() = TODO()
    fun addCategory(category: String): Intent = TODO()
    fun setType(type: String): Intent = TODO()
    fun putExtra(name: String, value: Boolean): Intent = TODO()

    companion object {
        const val ACTION_OPEN_DOCUMENT = ""
        const val CATEGORY_OPENABLE = ""
        const val EXTRA_ALLOW_MULTIPLE = ""
    }
}
