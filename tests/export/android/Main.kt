// Classifies raw RGB bytes: FOLDER IMAGE WIDTH HEIGHT; files that follow are models.

import android.content.Context
import android.graphics.Bitmap
import java.io.File

fun main(args: Array<String>) {
    val bytes = File(args[1]).readBytes()
    fun byte(at: Int) = bytes[at].toInt() and 0xff
    val pixels = IntArray(bytes.size / 3) {
        (0xff shl 24) or (byte(3 * it) shl 16) or (byte(3 * it + 1) shl 8) or byte(3 * it + 2)
    }
    val bitmap = Bitmap(args[2].toInt(), args[3].toInt(), pixels)
    for (model in args.drop(4)) {
        Classifier(Context(File(args[0])), model).use { println(it.classify(bitmap)) }
    }
}
