import CoreGraphics
import EdgekitCore
import Foundation
import ImageIO

/// Decodes a file to upright RGB: EXIF orientation applied, transparency laid on white.
public func decode(_ file: URL) throws -> Picture {
    guard let source = CGImageSourceCreateWithURL(file as CFURL, nil) else { throw EdgekitError("cannot read \(file.path)") }
    return try decode(source)
}

/// The same of a file in memory, such as a photo picker hands over.
public func decode(_ file: Data) throws -> Picture {
    guard let source = CGImageSourceCreateWithData(file as CFData, nil) else { throw EdgekitError("not an image") }
    return try decode(source)
}

private func decode(_ source: CGImageSource) throws -> Picture {
    guard let image = CGImageSourceCreateImageAtIndex(source, 0, nil) else { throw EdgekitError("not an image") }
    let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
    let orientation = properties?[kCGImagePropertyOrientation] as? Int ?? 1
    return try pixels(of: image).upright(orientation: orientation)
}

/// The pixels of an image, transparency laid on white. They are drawn in the image's own colours, since converting them is not what
/// Pillow does: grey in grey, RGB in its own RGB; only what is neither (indexed, CMYK) becomes sRGB.
public func pixels(of image: CGImage) throws -> Picture {
    let own = image.colorSpace.flatMap { $0.supportsOutput && [.rgb, .monochrome].contains($0.model) ? $0 : nil }
    guard let space = own ?? CGColorSpace(name: CGColorSpace.sRGB) else { throw EdgekitError("no sRGB here") }
    let grey = space.model == .monochrome
    let (width, height, channels) = (image.width, image.height, grey ? 1 : 4)
    var bytes = [UInt8](repeating: 255, count: channels * width * height) // white
    let drawn = bytes.withUnsafeMutableBytes { buffer -> Bool in
        let info = grey ? CGImageAlphaInfo.none.rawValue : CGImageAlphaInfo.noneSkipLast.rawValue
        guard let context = CGContext(data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8,
                                      bytesPerRow: channels * width, space: space, bitmapInfo: info) else { return false }
        context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        return true
    }
    guard drawn else { throw EdgekitError("\(width) x \(height) pixels cannot be drawn") }
    var rgb = [UInt8](repeating: 0, count: 3 * width * height)
    for i in 0..<(width * height) {
        for c in 0..<3 { rgb[3 * i + c] = bytes[channels * i + (grey ? 0 : c)] }
    }
    return Picture(width: width, height: height, rgb: rgb)
}
