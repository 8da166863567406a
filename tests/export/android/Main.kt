// Classifies raw RGBA bytes, in graphics memory: FOLDER IMAGE WIDTH HEIGHT; models follow.

import android.content.Context
import android.graphics.Bitmap
import java.io.File

fun main(args: Array<String>) {
    val bytes = File(args[1]).readBytes()
    fun byte(at: Int) = bytes[at].toInt() and 0xff
    val pixels = IntArray(bytes.size / 4) {
        val red = byte(4 * it) shl 16
        (byte(4 * it + 3) shl 24) or red or (byte(4 * it + 1) shl 8) or byte(4 * it + 2)
    }
    val bitmap = Bitmap(args[2].toInt(), args[3].toInt(), pixels, Bitmap.Config.HARDWARE)
    for (model in args.drop(4)) {
        Classifier(Context(File(args[0])), model).use { println(it.classify(bitmap)) }
    }
}
