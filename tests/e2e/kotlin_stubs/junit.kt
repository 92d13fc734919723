// As android.kt: JUnit 4.
package org.junit

annotation class Test

object Assert {
    @JvmStatic fun assertTrue(message: String, condition: Boolean): Unit = TODO()
}
