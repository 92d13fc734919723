// As android.kt.
package android.app

import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.View

open class Activity : Context() {
    open fun onCreate(state: Bundle?): Unit = TODO()
    open fun onActivityResult(request: Int, result: Int, data: Intent?): Unit = TODO()
    fun setContentView(view: View): Unit = TODO()
    fun startActivityForResult(intent: Intent, request: Int): Unit = TODO()
    fun runOnUiThread(action: Runnable): Unit = TODO()
}
