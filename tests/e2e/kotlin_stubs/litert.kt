// As android.kt: com.google.ai.edge.litert 2.3.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { CPU, GPU, NPU }

class TensorBuffer : AutoCloseable {
    fun writeFloat(values: FloatArray): Unit = TODO()
    fun readFloat(): FloatArray = TODO()
    override fun close(): Unit = TODO()
}

class CompiledModel : AutoCloseable {
    class Options(vararg accelerators: Accelerator)

    fun createInputBuffers(): List<TensorBuffer> = TODO()
    fun createOutputBuffers(): List<TensorBuffer> = TODO()
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>): Unit = TODO()
    override fun close(): Unit = TODO()

    companion object {
        @JvmStatic fun create(assets: AssetManager, path: String, options: Options): CompiledModel = TODO()
    }
}
