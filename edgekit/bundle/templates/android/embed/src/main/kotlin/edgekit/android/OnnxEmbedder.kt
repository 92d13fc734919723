package edgekit.android

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.res.AssetManager
import android.system.Os
import edgekit.Layout
import edgekit.Picture
import java.nio.FloatBuffer

/**
 * An .onnx model of the bundle, run by ONNX Runtime. For a fused model pass [ops], the path of libedgekit_ops.so built for the
 * device from the bundle's cpp/edgekit_ops (applicationInfo.nativeLibraryDir + "/libedgekit_ops.so").
 */
class OnnxEmbedder(assets: AssetManager, model: String = "onnx/model_quantized.onnx", ops: String? = null) : Embedder {
    override val transform = transformOf(assets)
    private val environment = run {
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // ONNX Runtime reports its use to Microsoft otherwise, from 1.29 on
        OrtEnvironment.getEnvironment()
    }
    private val options = OrtSession.SessionOptions().apply { ops?.let(::registerCustomOpLibrary) }
    private val session = environment.createSession(assets.open(model).use { it.readBytes() }, options)

    override fun embedCrop(crop: Picture): FloatArray {
        val values = FloatBuffer.wrap(transform.pixelValues(crop, Layout.NCHW))
        val shape = longArrayOf(1, 3, transform.height.toLong(), transform.width.toLong())
        OnnxTensor.createTensor(environment, values, shape).use { input ->
            session.run(mapOf("pixel_values" to input), setOf("pooler_output")).use { result ->
                val output = (result.get(0) as OnnxTensor).floatBuffer
                return FloatArray(output.remaining()).also { output.get(it) }
            }
        }
    }

    override fun close() {
        session.close()
        options.close()
    }
}
