// What Classifier.kt calls of Android; pixels lie row by row, 0xAARRGGBB.

package android.graphics

class Bitmap(val width: Int, val height: Int, private val pixels: IntArray, val config: Config) {
    enum class Config { ARGB_8888, HARDWARE }

    fun copy(config: Config, isMutable: Boolean) = Bitmap(width, height, pixels.copyOf(), config)

    fun getPixels(into: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        check(config != Config.HARDWARE) { "unable to getPixels(), pixel access is not supported" }
        for (row in 0 until height) for (column in 0 until width) {
            into[offset + row * stride + column] = pixels[(y + row) * this.width + x + column]
        }
    }

    companion object {
        @JvmStatic
        fun createBitmap(source: Bitmap, x: Int, y: Int, width: Int, height: Int): Bitmap {
            val pixels = IntArray(width * height)
            source.getPixels(pixels, 0, width, x, y, width, height)
            return Bitmap(width, height, pixels, source.config)
        }

        @JvmStatic
        fun createScaledBitmap(source: Bitmap, width: Int, height: Int, filter: Boolean): Bitmap {
            check(filter && source.width == width && source.height == height) { "no scaling here" }
            return source
        }
    }
}
