import Foundation

/// What is wrong with a file or a picture, in a sentence.
public struct EdgekitError: LocalizedError {
    public let errorDescription: String?

    public init(_ sentence: String) {
        errorDescription = sentence
    }
}

/// Upright 8-bit RGB, row by row: `rgb` holds width * height * 3 bytes.
public struct Picture {
    public let width: Int
    public let height: Int
    public let rgb: [UInt8]

    public init(width: Int, height: Int, rgb: [UInt8]) {
        precondition(width > 0 && height > 0 && rgb.count == 3 * width * height, "\(width) x \(height) pixels in \(rgb.count) bytes")
        (self.width, self.height, self.rgb) = (width, height, rgb)
    }

    /// Reads a binary PPM file of 8 bits.
    public init(ppm file: Data) throws {
        let bytes = [UInt8](file)
        var at = 0
        func word() -> String {
            while at < bytes.count && bytes[at] <= 32 { at += 1 }
            let start = at
            while at < bytes.count && bytes[at] > 32 { at += 1 }
            return String(decoding: bytes[start..<at], as: UTF8.self)
        }
        guard word() == "P6", let width = Int(word()), let height = Int(word()), word() == "255",
              width > 0, height > 0, bytes.count == at + 1 + 3 * width * height else {
            throw EdgekitError("no binary PPM file of 8 bits")
        }
        self.init(width: width, height: height, rgb: Array(bytes[(at + 1)...]))
    }

    /// Turned as EXIF orientation 1...8 says.
    public func upright(orientation: Int) -> Picture {
        guard (2...8).contains(orientation) else { return self }
        let swapped = orientation >= 5 // width and height
        let (newWidth, newHeight) = swapped ? (height, width) : (width, height)
        var turned = [UInt8](repeating: 0, count: rgb.count)
        for y in 0..<newHeight {
            for x in 0..<newWidth {
                var (u, v) = swapped ? (y, x) : (x, y) // column and row of the stored picture
                if [2, 3, 7, 8].contains(orientation) { u = width - 1 - u }
                if [3, 4, 6, 7].contains(orientation) { v = height - 1 - v }
                for c in 0..<3 { turned[3 * (y * newWidth + x) + c] = rgb[3 * (v * width + u) + c] }
            }
        }
        return Picture(width: newWidth, height: newHeight, rgb: turned)
    }
}
