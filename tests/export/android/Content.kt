package android.content

import java.io.File

class AssetManager(private val folder: File) {
    fun open(name: String) = File(folder, name).inputStream()
}

class Context(folder: File) {
    val assets = AssetManager(folder)
}
