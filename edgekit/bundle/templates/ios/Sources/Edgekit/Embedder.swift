import CoreML
@_exported import EdgekitCore
import Foundation

/// A model of a bundle that turns pictures into embeddings (`pooler_output`).
public final class Embedder {
    public let artifact: Manifest.Artifact
    private let model: MLModel

    /// `model` is already compiled: Xcode does that to an .mlpackage that is a member of the app's target.
    public init(_ model: MLModel, artifact: Manifest.Artifact) {
        (self.model, self.artifact) = (model, artifact)
    }

    /// Compiles a model of the bundle on this device, which takes seconds, and loads it.
    public static func load(
        _ bundle: URL, _ name: String = "coreml/w8a8", on units: MLComputeUnits = .all
    ) async throws -> Embedder {
        let artifact = try Manifest.read(bundle).artifact(name)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        let compiled = try await MLModel.compileModel(at: bundle.appending(path: artifact.path))
        return Embedder(try MLModel(contentsOf: compiled, configuration: configuration), artifact: artifact)
    }

    /// The embedding of a whole picture.
    public func embed(_ picture: Picture) throws -> [Float] {
        try embed(pixelValues: artifact.preprocess.pixelValues(artifact.preprocess.crop(picture)))
    }

    /// The embedding of `pixel_values` (3, H, W).
    public func embed(pixelValues: [Float]) throws -> [Float] {
        let shape = [1, 3, artifact.preprocess.height, artifact.preprocess.width]
        let input = MLMultiArray(MLShapedArray<Float>(scalars: pixelValues, shape: shape))
        let output = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: ["pixel_values": input]))
        guard let pooled = output.featureValue(for: "pooler_output")?.multiArrayValue else {
            throw EdgekitError("\(artifact.name) gives no pooler_output")
        }
        return MLShapedArray<Float>(converting: pooled).scalars
    }
}
