package edgekit.android

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import edgekit.Layout
import edgekit.Picture

/** A .tflite model of the bundle, run by LiteRT on the CPU. */
class LiteRtEmbedder(assets: AssetManager, model: String = "tflite/model_w8a8.tflite") : Embedder {
    override val transform = transformOf(assets)
    private val compiled = CompiledModel.create(assets, model, CompiledModel.Options(Accelerator.CPU))
    private val inputs = compiled.createInputBuffers()
    private val outputs = compiled.createOutputBuffers()

    override fun embedCrop(crop: Picture): FloatArray {
        inputs[0].writeFloat(transform.pixelValues(crop, Layout.NHWC))
        compiled.run(inputs, outputs)
        return outputs.map { it.readFloat() }.minBy { it.size } // the class token is the smaller output, all tokens the other
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        compiled.close()
    }
}
