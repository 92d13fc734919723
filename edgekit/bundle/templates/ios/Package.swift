// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "edgekit",
    platforms: [.iOS(.v18), .macOS(.v15)], // attention is one operation of Core ML from these on
    products: [.library(name: "Edgekit", targets: ["EdgekitCore", "Edgekit"])],
    targets: [
        .target(name: "EdgekitCore"), // Foundation alone: preprocessing, manifest, golden check
        .target(name: "Edgekit", dependencies: ["EdgekitCore"]), // Core ML and Image I/O
        .executableTarget(name: "Sample", dependencies: ["Edgekit"]),
        .testTarget(name: "EdgekitTests", dependencies: ["Edgekit"]),
    ],
    swiftLanguageModes: [.v5]
)
