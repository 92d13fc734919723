// As android.kt.
package android.net

class Uri
