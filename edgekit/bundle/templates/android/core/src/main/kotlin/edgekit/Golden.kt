package edgekit

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.sqrt

/** How alike two embeddings are: 1 for the same direction. */
fun cosine(a: FloatArray, b: FloatArray): Double {
    require(a.size == b.size) { "${a.size} and ${b.size} values" }
    var (ab, aa, bb) = Triple(0.0, 0.0, 0.0)
    for (i in a.indices) { ab += a[i].toDouble() * b[i]; aa += a[i].toDouble() * a[i]; bb += b[i].toDouble() * b[i] }
    return ab / sqrt(aa * bb)
}

/** Mean absolute difference in levels of 0..255. */
fun difference(a: ByteArray, b: ByteArray): Double {
    require(a.size == b.size) { "${a.size} and ${b.size} bytes" }
    return a.indices.sumOf { abs((a[it].toInt() and 255) - (b[it].toInt() and 255)) } / a.size.toDouble()
}

/** Tensors of a .safetensors file. */
class Safetensors(private val file: ByteArray) {
    private val length = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN).long.toInt()
    private val header = String(file, 8, length, Charsets.UTF_8)

    fun bytes(name: String): ByteArray {
        val entry = Regex("\"${Regex.escape(name)}\":\\{[^}]*\"data_offsets\":\\[(\\d+),(\\d+)]").find(header)
        val (first, last) = requireNotNull(entry) { "no tensor $name" }.destructured
        return file.copyOfRange(8 + length + first.toInt(), 8 + length + last.toInt())
    }

    fun floats(name: String): FloatArray {
        val buffer = ByteBuffer.wrap(bytes(name)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return FloatArray(buffer.remaining()).also { buffer.get(it) }
    }
}

/** The self-check against golden/: [read] opens a file of the bundle, [embed] turns a crop into `pooler_output`. */
class Golden(private val read: (String) -> ByteArray, private val transform: Transform) {
    /** One picture: [difference] of the crop in levels, [cosine] of the embedding with the FP32 model's. */
    class Result(val name: String, val difference: Double, val cosine: Double) {
        val passed get() = difference <= MOST_DIFFERENCE && cosine >= LEAST_COSINE
        override fun toString() = "%s %s: cosine %.6f, crop %.3f levels off".format(if (passed) "passed" else "FAILED", name, cosine, difference)
    }

    fun check(names: List<String>, decode: (ByteArray, String) -> Picture, embed: (Picture) -> FloatArray): List<Result> {
        val expected = Safetensors(read("golden/pictures.safetensors"))
        return names.map { name ->
            val stem = name.substringBeforeLast('.')
            val crop = transform.crop(decode(read("golden/pictures/$name"), name))
            val off = difference(crop.rgb, expected.bytes("$stem.crop"))
            Result(name, off, cosine(embed(crop), expected.floats("$stem.pooler_output")))
        }
    }

    companion object {
        const val LEAST_COSINE = 0.99 // of INT8 with FP32 (golden/README.md)
        const val MOST_DIFFERENCE = 1.0 // decoders of JPEG differ by less; 0 from a .ppm
    }
}
