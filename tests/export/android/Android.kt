// What Classifier.kt calls of Android; pixels lie row by row, 0xAARRGGBB.

package android.graphics

class Bitmap(val width: Int, val height: Int, private val pixels: IntArray) {
    fun getPixels(into: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) for (column in 0 until width) {
            into[offset + row * stride + column] = pixels[(y + row) * this.width + x + column]
        }
    }

    companion object {
        @JvmStatic
        fun createBitmap(source: Bitmap, x: Int, y: Int, width: Int, height: Int): Bitmap {
            val pixels = IntArray(width * height)
            source.getPixels(pixels, 0, width, x, y, width, height)
            return Bitmap(width, height, pixels)
        }

        @JvmStatic
        fun createScaledBitmap(source: Bitmap, width: Int, height: Int, filter: Boolean): Bitmap {
            check(filter && source.width == width && source.height == height) { "no scaling here" }
            return source
        }
    }
}
