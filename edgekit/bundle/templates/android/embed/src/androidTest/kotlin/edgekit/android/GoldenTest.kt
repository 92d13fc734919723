package edgekit.android

import android.graphics.ImageDecoder
import androidx.test.platform.app.InstrumentationRegistry
import edgekit.Golden
import edgekit.Picture
import java.nio.ByteBuffer
import org.junit.Assert.assertTrue
import org.junit.Test

/** Both runtimes on the device against the bundle's golden pictures. */
class GoldenTest {
    private val assets = InstrumentationRegistry.getInstrumentation().context.assets

    @Test fun liteRt() = LiteRtEmbedder(assets).use(::check)

    @Test fun onnxRuntime() = OnnxEmbedder(assets).use(::check)

    private fun check(embedder: Embedder) {
        val golden = Golden({ path -> assets.open(path).use { it.readBytes() } }, embedder.transform)
        val names = assets.list("golden/pictures")!!.sorted()
        assertTrue("no golden pictures in the assets", names.isNotEmpty())
        val results = golden.check(names, ::decodeAny, embedder::embedCrop)
        assertTrue(results.joinToString("\n"), results.all { it.passed })
    }

    private fun decodeAny(file: ByteArray, name: String): Picture =
        if (name.endsWith(".ppm")) Picture.fromPpm(file) else decode(ImageDecoder.createSource(ByteBuffer.wrap(file)))
}
