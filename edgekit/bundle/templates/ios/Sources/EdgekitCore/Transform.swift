/// How a picture becomes `pixel_values`: the `preprocess` of an artifact in manifest.json.
public struct Transform: Decodable {
    let inputSize: [Int] // height, width of the crop
    let resize: Int // length of the shortest edge before the crop
    let mean: [Float]
    let std: [Float]
    let normalize: String // "host", or "graph": the model takes RGB 0...255
    let wholeImage: WholeImage? // there where pictures are resized whole, without a crop

    struct WholeImage: Decodable {}

    enum CodingKeys: String, CodingKey {
        case inputSize = "input_size", resize, mean, std, normalize, wholeImage = "whole_image"
    }

    public var height: Int { inputSize[0] }
    public var width: Int { inputSize[1] }

    /// Shorter edge to its length, more where the crop needs more; then the middle. Halves are rounded to even.
    public func crop(_ picture: Picture) throws -> Picture {
        if wholeImage != nil { return picture.resized(toWidth: width, toHeight: height) }
        let (short, long) = (min(picture.width, picture.height), max(picture.width, picture.height))
        let longer = Int(Double(resize) * Double(long) / Double(short))
        var (fullWidth, fullHeight) = picture.width <= picture.height ? (resize, longer) : (longer, resize)
        let missing = max(Double(width) / Double(fullWidth), Double(height) / Double(fullHeight))
        if missing > 1 {
            fullWidth = max(width, Int((Double(fullWidth) * missing).rounded(.toNearestOrEven)))
            fullHeight = max(height, Int((Double(fullHeight) * missing).rounded(.toNearestOrEven)))
        }
        guard fullWidth * fullHeight <= 100_000_000 else { throw EdgekitError("the picture is too thin") }
        let full = picture.resized(toWidth: fullWidth, toHeight: fullHeight)
        let left = Int((Double(fullWidth - width) / 2).rounded(.toNearestOrEven))
        let top = Int((Double(fullHeight - height) / 2).rounded(.toNearestOrEven))
        var rgb: [UInt8] = []
        rgb.reserveCapacity(3 * width * height)
        for y in top..<(top + height) {
            let start = 3 * (y * fullWidth + left)
            rgb += full.rgb[start..<(start + 3 * width)]
        }
        return Picture(width: width, height: height, rgb: rgb)
    }

    /// (3, H, W) float32 for the model.
    public func pixelValues(_ crop: Picture) -> [Float] {
        let plane = crop.width * crop.height
        var values = [Float](repeating: 0, count: 3 * plane)
        for c in 0..<3 {
            for i in 0..<plane {
                let level = Float(crop.rgb[3 * i + c])
                values[c * plane + i] = normalize == "host" ? (level / 255 - mean[c]) / std[c] : level
            }
        }
        return values
    }
}
