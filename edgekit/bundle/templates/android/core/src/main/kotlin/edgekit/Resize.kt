package edgekit

import kotlin.math.abs

private const val FRACTION = 22 // bits, as Pillow has them

/** One output pixel: input pixels from [first] on, with [weights] in 22 bits of fraction. */
private class Tap(val first: Int, val weights: IntArray)

/**
 * Bicubic (a = -0.5) whose support grows with the scale: equal, byte for byte, to Pillow's Image.resize. Pillow 13 begins with
 * the height where that shrinks by more than twice as many pixels; it changes roundings.
 */
fun Picture.resized(toWidth: Int, toHeight: Int): Picture =
    if (height > toHeight && height - toHeight > 2 * (width - toWidth)) down(toHeight).across(toWidth)
    else across(toWidth).down(toHeight)

private fun Picture.across(toWidth: Int): Picture {
    val columns = taps(width, toWidth)
    val out = ByteArray(3 * toWidth * height)
    for (y in 0 until height) for (x in 0 until toWidth) for (c in 0..2) {
        val tap = columns[x]
        var sum = 0
        var at = 3 * (y * width + tap.first) + c
        for (weight in tap.weights) { sum += weight * (rgb[at].toInt() and 255); at += 3 }
        out[3 * (y * toWidth + x) + c] = rounded(sum)
    }
    return Picture(toWidth, height, out)
}

private fun Picture.down(toHeight: Int): Picture {
    val rows = taps(height, toHeight)
    val row = 3 * width
    val out = ByteArray(row * toHeight)
    for (y in 0 until toHeight) for (i in 0 until row) {
        var sum = 0
        var at = row * rows[y].first + i
        for (weight in rows[y].weights) { sum += weight * (rgb[at].toInt() and 255); at += row }
        out[row * y + i] = rounded(sum)
    }
    return Picture(width, toHeight, out)
}

private fun taps(from: Int, to: Int): List<Tap> {
    val scale = from.toDouble() / to
    val stretch = maxOf(scale, 1.0)
    return List(to) { i ->
        val centre = (i + 0.5) * scale
        val first = maxOf(0, (centre - 2 * stretch + 0.5).toInt())
        val last = minOf(from, (centre + 2 * stretch + 0.5).toInt())
        val weights = DoubleArray(last - first) { bicubic((first + it - centre + 0.5) * (1 / stretch)) }
        val inverse = 1 / weights.sum() // multiplied, not divided: the last bit decides roundings
        Tap(first, IntArray(weights.size) { (weights[it] * inverse * (1 shl FRACTION) + if (weights[it] < 0) -0.5 else 0.5).toInt() })
    }
}

private fun bicubic(distance: Double): Double {
    val x = abs(distance)
    return if (x < 1) (1.5 * x - 2.5) * x * x + 1 else if (x < 2) ((-0.5 * x + 2.5) * x - 4) * x + 2 else 0.0
}

private fun rounded(sum: Int): Byte = ((sum + (1 shl (FRACTION - 1))) shr FRACTION).coerceIn(0, 255).toByte()
