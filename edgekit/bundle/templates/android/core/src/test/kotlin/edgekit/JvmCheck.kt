package edgekit

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * The platform-free part on the JVM: `JvmCheck BUNDLE OUT` compares the crops of all golden .ppm pictures and writes each
 * `pixel_values` (3, H, W) as raw float32 into OUT, for a model to be run on by another program. Exit code 1 when a crop differs.
 */
fun main(arguments: Array<String>) {
    val bundle = File(arguments[0])
    val transform = Transform.fromJson(File(bundle, "preprocessor_config.json").readText())
    val expected = Safetensors(File(bundle, "golden/pictures.safetensors").readBytes())
    val pictures = File(bundle, "golden/pictures").listFiles { file -> file.extension == "ppm" }!!.sorted()
    var failed = pictures.isEmpty()
    for (file in pictures) {
        val crop = transform.crop(Picture.fromPpm(file.readBytes()))
        val off = difference(crop.rgb, expected.bytes("${file.nameWithoutExtension}.crop"))
        failed = failed || off > 0
        println("${if (off > 0) "FAILED" else "passed"} ${file.name}: crop %.3f levels off".format(off))
        val values = transform.pixelValues(crop, Layout.NCHW)
        val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        File(arguments[1], "${file.nameWithoutExtension}.f32").writeBytes(bytes.array())
    }
    if (failed) kotlin.system.exitProcess(1)
}
