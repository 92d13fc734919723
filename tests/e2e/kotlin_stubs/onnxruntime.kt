// As android.kt: com.microsoft.onnxruntime.
package ai.onnxruntime

import java.nio.FloatBuffer

interface OnnxValue : AutoCloseable

class OnnxTensor : OnnxValue {
    val floatBuffer: FloatBuffer get() = TODO()
    override fun close(): Unit = TODO()

    companion object {
        @JvmStatic fun createTensor(environment: OrtEnvironment, values: FloatBuffer, shape: LongArray): OnnxTensor = TODO()
    }
}

class OrtEnvironment {
    fun createSession(model: ByteArray, options: OrtSession.SessionOptions): OrtSession = TODO()

    companion object {
        @JvmStatic fun getEnvironment(): OrtEnvironment = TODO()
    }
}

class OrtSession : AutoCloseable {
    class SessionOptions : AutoCloseable {
        fun registerCustomOpLibrary(path: String): Unit = TODO()
        override fun close(): Unit = TODO()
    }

    class Result : AutoCloseable {
        fun get(index: Int): OnnxValue = TODO()
        override fun close(): Unit = TODO()
    }

    fun run(inputs: Map<String, OnnxTensor>, outputs: Set<String>): Result = TODO()
    override fun close(): Unit = TODO()
}
