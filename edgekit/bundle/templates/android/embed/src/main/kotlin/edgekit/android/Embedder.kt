package edgekit.android

import android.content.res.AssetManager
import edgekit.Picture
import edgekit.Transform

/** A model that turns pictures into embeddings (`pooler_output`). Not for several threads at once. */
interface Embedder : AutoCloseable {
    val transform: Transform

    /** The embedding of a whole picture. */
    fun embed(picture: Picture): FloatArray = embedCrop(transform.crop(picture))

    /** The embedding of what [Transform.crop] made. */
    fun embedCrop(crop: Picture): FloatArray
}

/** How the bundle in the app's assets wants its pictures. */
fun transformOf(assets: AssetManager): Transform =
    Transform.fromJson(assets.open("preprocessor_config.json").use { it.readBytes() }.toString(Charsets.UTF_8))
