package edgekit.sample

import android.app.Activity
import android.content.Intent
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.TextView
import edgekit.android.LiteRtEmbedder
import edgekit.android.decode
import edgekit.cosine
import kotlin.concurrent.thread

/** Tap, choose two pictures, see how alike they are. */
class MainActivity : Activity() {
    private lateinit var words: TextView
    private val embedder by lazy { LiteRtEmbedder(assets) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        words = TextView(this).apply {
            text = "Tap to choose two pictures"
            textSize = 24f
            setPadding(48, 96, 48, 48)
            setOnClickListener { choose() }
        }
        setContentView(words)
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
        startActivityForResult(intent.putExtra(Intent.EXTRA_ALLOW_MULTIPLE, true), CHOSEN)
    }

    @Deprecated("the way without androidx")
    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val clip = data?.clipData ?: return
        if (request != CHOSEN || clip.itemCount < 2) return
        words.text = "…"
        thread {
            val (a, b) = listOf(0, 1).map { embedder.embed(open(clip.getItemAt(it).uri)) }
            runOnUiThread { words.text = "Cosine similarity %.3f".format(cosine(a, b)) }
        }
    }

    private fun open(uri: Uri) = decode(ImageDecoder.createSource(contentResolver, uri))

    private companion object {
        const val CHOSEN = 1
    }
}
