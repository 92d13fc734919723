// As android.kt.
package android.system

object Os {
    @JvmStatic fun setenv(name: String, value: String, overwrite: Boolean): Unit = TODO()
}
