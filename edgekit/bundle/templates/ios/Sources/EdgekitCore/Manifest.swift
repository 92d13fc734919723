import Foundation

/// manifest.json of a bundle, as far as an app needs it.
public struct Manifest: Decodable {
    /// One model file.
    public struct Artifact: Decodable {
        public let name: String // "coreml/w8a8"
        public let path: String // below the bundle
        public let format: String
        public let precision: String
        public let preprocess: Transform
    }

    public let artifacts: [Artifact]

    public static func read(_ bundle: URL) throws -> Manifest {
        try JSONDecoder().decode(Manifest.self, from: Data(contentsOf: bundle.appending(path: "manifest.json")))
    }

    public func artifact(_ name: String) throws -> Artifact {
        guard let found = artifacts.first(where: { $0.name == name }) else {
            throw EdgekitError("the bundle has no \(name), it has \(artifacts.map(\.name).joined(separator: ", "))")
        }
        return found
    }
}
