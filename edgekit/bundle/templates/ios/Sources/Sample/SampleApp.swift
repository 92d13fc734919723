import Edgekit
import PhotosUI
import SwiftUI

/// Choose two pictures, see how alike they are. In an app the bundle is its folder "edgekit", here the one this package lies in.
@main
struct SampleApp: App {
    private let bundle = Bundle.main.url(forResource: "edgekit", withExtension: nil)
        ?? URL(filePath: #filePath).appending(path: "../../../..").standardizedFileURL

    var body: some Scene {
        WindowGroup { SimilarityView(bundle: bundle) }
    }
}

struct SimilarityView: View {
    let bundle: URL
    @State private var chosen: [PhotosPickerItem] = []
    @State private var words = "Two pictures, please"
    @State private var embedder: Embedder?

    var body: some View {
        VStack(spacing: 24) {
            Text(words).font(.title)
            PhotosPicker("Choose two pictures", selection: $chosen, maxSelectionCount: 2, matching: .images)
        }
        .padding(48)
        .onChange(of: chosen) { Task { await compare() } }
    }

    @MainActor private func compare() async {
        guard chosen.count == 2 else { return }
        words = "…"
        do {
            let model: Embedder
            if let loaded = embedder {
                model = loaded
            } else {
                model = try await Embedder.load(bundle)
            }
            embedder = model
            var embeddings: [[Float]] = []
            for item in chosen {
                guard let file = try await item.loadTransferable(type: Data.self) else { throw EdgekitError("no picture") }
                embeddings.append(try model.embed(decode(file)))
            }
            words = String(format: "Cosine similarity %.3f", cosine(embeddings[0], embeddings[1]))
        } catch {
            words = error.localizedDescription
        }
    }
}
