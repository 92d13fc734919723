// As android.kt.
package android.os

class Bundle
