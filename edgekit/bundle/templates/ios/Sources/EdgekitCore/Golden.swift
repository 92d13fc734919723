import Foundation

/// How alike two embeddings are: 1 for the same direction.
public func cosine(_ a: [Float], _ b: [Float]) -> Double {
    precondition(a.count == b.count, "\(a.count) and \(b.count) values")
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
        ab += Double(x) * Double(y)
        aa += Double(x) * Double(x)
        bb += Double(y) * Double(y)
    }
    return ab / (aa * bb).squareRoot()
}

/// Mean absolute difference in levels of 0...255.
public func difference(_ a: [UInt8], _ b: [UInt8]) -> Double {
    precondition(a.count == b.count, "\(a.count) and \(b.count) bytes")
    return Double(zip(a, b).reduce(0) { $0 + abs(Int($1.0) - Int($1.1)) }) / Double(a.count)
}

/// Tensors of a .safetensors file.
public struct Safetensors {
    private struct Entry: Decodable {
        let data_offsets: [Int]? // none of __metadata__
    }

    private let tensors: Data
    private let entries: [String: Entry]

    public init(contentsOf file: URL) throws {
        let bytes = try Data(contentsOf: file)
        let length = bytes.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) } // little endian
        guard bytes.count >= 8 + length, length > 0 else { throw EdgekitError("\(file.path) is no safetensors file") }
        entries = try JSONDecoder().decode([String: Entry].self, from: bytes[8..<(8 + length)])
        tensors = Data(bytes[(8 + length)...])
    }

    public func bytes(_ name: String) throws -> [UInt8] {
        guard let range = entries[name]?.data_offsets, range.count == 2, range[1] <= tensors.count else {
            throw EdgekitError("no tensor \(name)")
        }
        return [UInt8](tensors[range[0]..<range[1]])
    }

    public func floats(_ name: String) throws -> [Float] {
        try bytes(name).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}

/// The self-check of a bundle: the golden tensors and pictures through one model.
public struct Golden {
    /// Least cosine of `pooler_output` with the FP32 model's that tells a working model from a broken one; as edgekit/golden.py.
    public static let leastCosine = ["fp32": 0.999999, "fp16": 0.9999, "w8": 0.99, "w8a8": 0.99, "w8a16": 0.99, "w4": 0.8, "w4a8": 0.8]
    /// Mean, in levels: decoders of JPEG differ by less; 0 from a .ppm.
    public static let mostDifference = 1.0

    /// One tensor or picture: cosine of the embedding, and `difference` of the crop in levels.
    public struct Result: CustomStringConvertible {
        public let name: String
        public let cosine: Double
        public let difference: Double
        public let passed: Bool

        public var description: String {
            String(format: "%@ %@: cosine %.6f, crop %.3f levels off", passed ? "passed" : "FAILED", name, cosine, difference)
        }
    }

    private let folder: URL
    private let artifact: Manifest.Artifact

    public init(bundle: URL, artifact: Manifest.Artifact) {
        let further = "\(artifact.preprocess.height)x\(artifact.preprocess.width)" // a size that is not the main one
        let home = artifact.name.hasSuffix("_\(further)") ? bundle.appending(path: further) : bundle
        (folder, self.artifact) = (home.appending(path: "golden"), artifact)
    }

    /// `decode` opens a .jpg or .png, `embed` turns `pixel_values` (3, H, W) into `pooler_output`.
    public func check(decode: (URL) throws -> Picture, embed: ([Float]) throws -> [Float]) throws -> [Result] {
        let values = try Safetensors(contentsOf: folder.appending(path: "inputs.safetensors")).floats("pixel_values")
        let pooled = try Safetensors(contentsOf: folder.appending(path: "outputs.safetensors")).floats("pooler_output")
        let size = 3 * artifact.preprocess.height * artifact.preprocess.width
        let images = values.count / size
        guard images > 0 else { throw EdgekitError("the golden inputs are of another image size") }
        var results = try (0..<images).map { i in
            let width = pooled.count / images
            let embedding = try embed(Array(values[(i * size)..<((i + 1) * size)]))
            return result("tensor \(i)", cosine(embedding, Array(pooled[(i * width)..<((i + 1) * width)])), 0)
        }
        let expected = try Safetensors(contentsOf: folder.appending(path: "pictures.safetensors"))
        let files = try FileManager.default.contentsOfDirectory(at: folder.appending(path: "pictures"), includingPropertiesForKeys: nil)
        for file in files.sorted(by: { $0.lastPathComponent < $1.lastPathComponent }) {
            let exact = file.pathExtension == "ppm"
            let crop = try artifact.preprocess.crop(exact ? Picture(ppm: Data(contentsOf: file)) : decode(file))
            let stem = file.deletingPathExtension().lastPathComponent
            let alike = try cosine(embed(artifact.preprocess.pixelValues(crop)), expected.floats("\(stem).pooler_output"))
            results.append(result(file.lastPathComponent, alike, difference(crop.rgb, try expected.bytes("\(stem).crop"))))
        }
        return results
    }

    private func result(_ name: String, _ cosine: Double, _ difference: Double) -> Result {
        let least = Golden.leastCosine[artifact.precision] ?? 1
        let passed = cosine >= least && difference <= Golden.mostDifference // false for NaN as well
        return Result(name: name, cosine: cosine, difference: difference, passed: passed)
    }
}
