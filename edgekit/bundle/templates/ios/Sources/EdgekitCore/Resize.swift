private let fraction = 22 // bits, as Pillow has them

/// One output pixel: input pixels from `first` on, with `weights` in 22 bits of fraction.
private struct Tap {
    let first: Int
    let weights: [Int32]
}

extension Picture {
    /// Bicubic (a = -0.5) whose support grows with the scale: the arithmetic of Pillow's Image.resize, integer by integer. Pillow 13
    /// begins with the height where that shrinks by more than twice as many pixels; it changes roundings.
    public func resized(toWidth: Int, toHeight: Int) -> Picture {
        if height > toHeight && height - toHeight > 2 * (width - toWidth) {
            return down(toHeight).across(toWidth)
        }
        return across(toWidth).down(toHeight)
    }

    private func across(_ toWidth: Int) -> Picture {
        let columns = taps(from: width, to: toWidth)
        var out = [UInt8](repeating: 0, count: 3 * toWidth * height)
        for y in 0..<height {
            for x in 0..<toWidth {
                for c in 0..<3 {
                    var sum: Int32 = 0
                    var at = 3 * (y * width + columns[x].first) + c
                    for weight in columns[x].weights {
                        sum += weight * Int32(rgb[at])
                        at += 3
                    }
                    out[3 * (y * toWidth + x) + c] = rounded(sum)
                }
            }
        }
        return Picture(width: toWidth, height: height, rgb: out)
    }

    private func down(_ toHeight: Int) -> Picture {
        let rows = taps(from: height, to: toHeight)
        let row = 3 * width
        var out = [UInt8](repeating: 0, count: row * toHeight)
        for y in 0..<toHeight {
            for i in 0..<row {
                var sum: Int32 = 0
                var at = row * rows[y].first + i
                for weight in rows[y].weights {
                    sum += weight * Int32(rgb[at])
                    at += row
                }
                out[row * y + i] = rounded(sum)
            }
        }
        return Picture(width: width, height: toHeight, rgb: out)
    }
}

private func taps(from: Int, to: Int) -> [Tap] {
    let scale = Double(from) / Double(to)
    let stretch = max(scale, 1) // wider than the cubic when shrinking: the antialiasing
    return (0..<to).map { i in
        let centre = (Double(i) + 0.5) * scale
        let first = max(0, Int(centre - 2 * stretch + 0.5))
        let last = min(from, Int(centre + 2 * stretch + 0.5))
        let weights = (first..<last).map { bicubic((Double($0) - centre + 0.5) * (1 / stretch)) }
        let inverse = 1 / weights.reduce(0, +) // multiplied, not divided: the last bit decides roundings
        let whole = Double(1 << fraction)
        return Tap(first: first, weights: weights.map { Int32($0 * inverse * whole + ($0 < 0 ? -0.5 : 0.5)) })
    }
}

private func bicubic(_ distance: Double) -> Double {
    let x = abs(distance)
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

private func rounded(_ sum: Int32) -> UInt8 {
    UInt8(min(255, max(0, (sum + (1 << (fraction - 1))) >> fraction)))
}
