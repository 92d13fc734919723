// Runs one case of a fused op through the C interface: `ops_host case result`, for other CPUs and for sanitizers. Prints the
// instruction set and how often permission to use (emulated) tiles was asked for. With FOREIGN_TILES=1 each thread has tiles
// of another user, as those of ONNX Runtime's and OpenVINO's own kernels are.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "edgekit_ops.h"
#include "tiles_emulated.h"

struct Header {  // little-endian, as test_ops_hosts.py writes it
    int64_t op, batch, tokens, width, hidden, heads, kind, gain, threads, activation, rotated;
    float scale, epsilon;
};

static std::vector<char> contents(const char* path) {
    std::vector<char> bytes;
    FILE* file = fopen(path, "rb");
    char buffer[4096];
    for (size_t n; file && (n = fread(buffer, 1, sizeof buffer, file)) > 0;) bytes.insert(bytes.end(), buffer, buffer + n);
    if (file) fclose(file);
    return bytes;
}

// Another user's configuration, which must be there again after each task.
static void with_foreign_tiles(void (*task)(void*, size_t), void* argument, size_t i) {
    using namespace edgekit::emulated;
    static const bool wanted = getenv("FOREIGN_TILES") != nullptr;
    Config theirs{1, 0, {}, {32, 32, 64, 16}, {8, 8, 8, 4}};
    if (wanted) tile_config_load(&theirs);
    task(argument, i);
    if (wanted && memcmp(&tiles.config, &theirs, sizeof theirs) != 0) {
        fprintf(stderr, "the configuration of the tiles is not what it was\n");
        abort();
    }
    if (!wanted && tiles.config.palette) {
        fprintf(stderr, "the tiles are not released\n");
        abort();
    }
}

static void spread(void* pool, void (*task)(void*, size_t), size_t count, void* argument) {
    std::atomic<size_t> next{0};
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < *static_cast<int64_t*>(pool); ++i)
        threads.emplace_back([&] {
            for (size_t j; (j = next++) < count;) with_foreign_tiles(task, argument, j);
        });
    for (std::thread& thread : threads) thread.join();
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const std::vector<char> bytes = contents(argv[1]);
    Header h;
    if (bytes.size() < sizeof h) return 2;
    memcpy(&h, bytes.data(), sizeof h);
    const char* at = bytes.data() + sizeof h;
    // Each array is copied to a place of its own, so that a read beyond one is seen by a sanitizer.
    std::vector<std::vector<float>> floats;
    std::vector<std::vector<int8_t>> integers;
    floats.reserve(32), integers.reserve(32);
    auto take = [&](size_t count) {
        floats.emplace_back(count);
        memcpy(floats.back().data(), at, count * sizeof(float));
        at += count * sizeof(float);
        return floats.back().data();
    };
    auto linear = [&](size_t out, size_t in) {
        if (h.kind == EDGEKIT_EXACT) {
            edgekit_linear result{};
            result.exact = take(in * out), result.bias = take(out);
            return result;
        }
        integers.emplace_back(out * in);
        memcpy(integers.back().data(), at, out * in);
        at += out * in;
        edgekit_linear result{integers.back().data(), nullptr, nullptr, nullptr};
        result.scale = take(out), result.bias = take(out);
        return result;
    };
    edgekit_threads threads{&h.threads, spread, 0};
    edgekit_rope rope{nullptr, nullptr, h.rotated};
    auto take_rope = [&]() -> const edgekit_rope* {
        if (!h.rotated) return nullptr;
        const size_t count = size_t(h.rotated * (h.width / h.heads / 2));
        rope.cos = take(count), rope.sin = take(count);
        return &rope;
    };
    const size_t rows = size_t(h.batch * h.tokens);
    std::vector<float> out(rows * h.width);
    int code;
    if (h.op == 0) {
        const float* qkv = take(rows * 3 * h.width);
        code = edgekit_attention_run(qkv, out.data(), h.batch, h.tokens, h.width, h.heads, h.scale, int32_t(h.kind), &threads, take_rope());
    } else {
        const float* x = take(rows * h.width);
        edgekit_block_spec spec{};
        spec.width = h.width, spec.hidden = h.hidden, spec.heads = h.heads, spec.scale = h.scale, spec.epsilon = h.epsilon;
        spec.tier = int32_t(h.kind), spec.attention = -1;
        spec.norm1_weight = take(h.width), spec.norm1_bias = take(h.width);
        spec.qkv = linear(3 * h.width, h.width), spec.proj = linear(h.width, h.width);
        spec.norm2_weight = take(h.width), spec.norm2_bias = take(h.width);
        spec.activation = int32_t(h.activation);
        spec.fc1 = linear(h.activation == EDGEKIT_SWIGLU ? 2 * h.hidden : h.hidden, h.width), spec.fc2 = linear(h.width, h.hidden);
        spec.fc2_gain = h.gain ? take(h.hidden) : nullptr;
        edgekit_block* block = nullptr;
        code = edgekit_block_create(&spec, &block);
        if (code == EDGEKIT_OK) code = edgekit_block_run(block, x, out.data(), h.batch, h.tokens, &threads, take_rope());
        edgekit_block_destroy(block);
    }
    if (code != EDGEKIT_OK) {
        fprintf(stderr, "%s\n", edgekit_last_error());
        return 1;
    }
    printf("%s %d\n", edgekit_isa(), edgekit::emulated::requests);
    FILE* file = fopen(argv[2], "wb");
    if (!file) return 2;
    const bool written = fwrite(out.data(), sizeof(float), out.size(), file) == out.size();
    return fclose(file) == 0 && written ? 0 : 2;
}
