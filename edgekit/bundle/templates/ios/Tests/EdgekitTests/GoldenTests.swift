import Edgekit
import Foundation
import XCTest

/// Every Core ML model of the bundle on this device, against the bundle's golden tensors and pictures.
final class GoldenTests: XCTestCase {
    /// EDGEKIT_BUNDLE, a folder "edgekit" among the resources (on a device), or the bundle that this package lies in.
    private var bundle: URL {
        if let path = ProcessInfo.processInfo.environment["EDGEKIT_BUNDLE"] { return URL(filePath: path) }
        return Bundle(for: Self.self).url(forResource: "edgekit", withExtension: nil)
            ?? URL(filePath: #filePath).appending(path: "../../../..").standardizedFileURL
    }

    func testEveryModel() async throws {
        let models = try Manifest.read(bundle).artifacts.filter { $0.format == "coreml" && !$0.name.contains("_image") }
        XCTAssertFalse(models.isEmpty, "no Core ML model in \(bundle.path)")
        for artifact in models {
            let embedder = try await Embedder.load(bundle, artifact.name)
            let results = try Golden(bundle: bundle, artifact: artifact).check(decode: decode, embed: embedder.embed(pixelValues:))
            print(results.map { "\(artifact.name) \($0)" }.joined(separator: "\n"))
            for result in results { XCTAssertTrue(result.passed, "\(artifact.name) \(result)") }
            for exact in results where exact.name.hasSuffix(".ppm") { XCTAssertEqual(exact.difference, 0, exact.name) }
        }
    }

    func testTheCheckSeesWrongPreprocessing() async throws {
        let artifact = try Manifest.read(bundle).artifact("coreml/w8a8")
        let embedder = try await Embedder.load(bundle, artifact.name)
        let results = try Golden(bundle: bundle, artifact: artifact).check(decode: decode) { values in
            try embedder.embed(pixelValues: values.map { -$0 })
        }
        XCTAssertTrue(results.allSatisfy { !$0.passed })
    }
}
