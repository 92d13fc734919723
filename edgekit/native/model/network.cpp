// Reads a model out of its file; every number of the description is bounded before anything of that size is made.
#include "network.h"

#include <atomic>
#include <cmath>
#include <mutex>

#include "guard.h"
#include "tasks.h"

namespace edgekit {

static constexpr int64_t most_width = 1 << 14, most_depth = 200, most_heads = 1024, most_hidden = 1 << 16, most_registers = 4096,
                         most_patch = 128, most_rows = 1024;

void FloatLinear::pack(const float* matrix, const float* bias, int in, int out) {
    const std::vector<float> zeros(bias ? 0 : size_t(out));
    PackedLinear packed({nullptr, nullptr, bias ? bias : zeros.data(), matrix}, in, out, Format::f32);
    weights = std::make_unique<Memory>(packed.bytes());
    packed.pack(false, nullptr, weights->data());
    view = packed.view;
}

void LayerNorm::run(const float* x, float* y, int rows) const {
    constexpr int lanes = 8;  // sums side by side, which compilers make vectors of
    const int n = int(weight.size());
    const auto sum = [n](auto&& term) {
        float sums[lanes] = {};
        int i = 0;
        for (; i + lanes <= n; i += lanes)
            for (int j = 0; j < lanes; ++j) sums[j] += term(i + j);
        for (; i < n; ++i) sums[0] += term(i);
        return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    };
    for (int r = 0; r < rows; ++r, x += n, y += n) {
        const float mean = sum([&](int i) { return x[i]; }) / float(n);
        const float squares = sum([&](int i) { return (x[i] - mean) * (x[i] - mean); });
        const float factor = 1 / std::sqrt(squares / float(n) + epsilon);
        for (int i = 0; i < n; ++i) y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
    }
}

static std::vector<float> copied(const float* values, int64_t count) {
    return values ? std::vector<float>(values, values + count) : std::vector<float>{};
}

void Network::read_shape(const Json& json, Reader& reader) {
    Fields top(&json, "description", reader), network(json.find("network"), "network", reader);
    if (top.text("schema") != "edgekit.model/1") reader.refuse("its schema is not edgekit.model/1, which this library reads");
    tier = int32_t(top.choice("tier", {"speed", "quality", "exact"}));
    width = int(network.whole("width", 1, most_width)), depth = int(network.whole("depth", 1, most_depth));
    heads = int(network.whole("heads", 1, most_heads)), hidden = int(network.whole("hidden", 1, most_hidden));
    registers = int(network.whole("registers", 0, most_registers)), patch = int(network.whole("patch", 1, most_patch));
    gated = network.choice("ffn", {"mlp", "swiglu"}) == 1;
    rotary = network.choice("positions", {"learned", "rope"}) == 1;
    interpolation = Interpolation(network.choice("interpolation", {"offset", "antialias", "size"}));
    epsilon = float(network.number("norm_eps", 0, 1));
    const std::vector<int64_t> sides = network.wholes("grid", 2, 1, most_rows);
    grid = {int(sides[0]), int(sides[1])};
    if (width % heads) reader.refuse("network.heads does not divide network.width");
    if (!rotary) return;
    if (head_dim() % 4) reader.refuse("rotary positions need heads of a multiple of 4 channels");
    const double base = network.number("rope_base", 1, 1e30);
    if (reader.sound()) periods = rotary_periods(base, head_dim(), network.choice("rope_periods", {"float32", "bfloat16"}) == 1);
}

void Network::read_transform(const Json& json, Reader& reader) {
    Fields manifest(json.find("manifest"), "manifest", reader), fields(manifest.find("preprocess"), "preprocess", reader);
    transform.height = grid.rows * patch, transform.width = grid.columns * patch;
    const std::vector<int64_t> size = fields.wholes("input_size", 2, 1, most_side);
    if (size[0] != transform.height || size[1] != transform.width) reader.refuse("preprocess.input_size is not that of network.grid");
    transform.shortest_edge = int(fields.whole("resize", 1, 1 << 14));
    transform.normalized = fields.choice("normalize", {"host", "graph"}) == 0;
    const std::vector<double> mean = fields.numbers("mean", 3, -1000, 1000), deviation = fields.numbers("std", 3, 1e-4, 1e4);
    for (int c = 0; c < 3; ++c) transform.mean[c] = float(mean[c]), transform.deviation[c] = float(deviation[c]);
}

// (out, in) -> (in, out)
static std::vector<float> transposed(const float* matrix, int out, int in) {
    std::vector<float> turned(size_t(in) * out);
    for (int o = 0; o < out; ++o)
        for (int i = 0; i < in; ++i) turned[size_t(i) * out + o] = matrix[size_t(o) * in + i];
    return turned;
}

void Network::read_tokens(Reader& reader) {
    const int in = 3 * patch * patch;
    const float* weight = reader.floats("patch_embed.weight", {width, in});
    const float* bias = reader.floats("patch_embed.bias", {width});
    const float* cls = reader.floats("cls_token", {width});
    const float* extra = registers ? reader.floats("register_tokens", {registers, width}) : nullptr;
    const float* table = rotary ? nullptr : reader.floats("pos_embed", {1 + grid.patches(), width});
    if (!reader.sound()) return;
    embedding.pack(transposed(weight, width, in).data(), bias, in, width);
    prefix = copied(cls, width);
    if (extra) prefix.insert(prefix.end(), extra, extra + int64_t(registers) * width);
    if (rotary) {
        const size_t count = size_t(grid.patches()) * (head_dim() / 2);
        cosines.resize(count), sines.resize(count);
        rotary_tables(periods, grid, cosines.data(), sines.data());
    } else {
        for (int i = 0; i < width; ++i) prefix[i] += table[i];
        positions = copied(table + width, grid.patches() * width);
    }
}

// Constants of a linear layer (out, in): bytes, or a matrix (in, out) of floats. The block checks that they are finite.
static edgekit_linear read_linear(const std::string& name, int64_t out, int64_t in, Reader& reader) {
    edgekit_linear linear{nullptr, nullptr, reader.floats(name + ".bias", {out}), nullptr};
    if (reader.is_integer(name + ".weight")) {
        linear.weight = reader.bytes(name + ".weight", {out, in});
        linear.scale = reader.floats(name + ".scale", {out});
    } else {
        linear.exact = reader.floats(name + ".weight", {in, out});
    }
    return linear;
}

std::string Network::read_block(int index, Reader& reader, Release release) {
    const std::string name = "blocks." + std::to_string(index) + ".";
    edgekit_block_spec spec{};
    spec.width = width, spec.hidden = hidden, spec.heads = heads, spec.epsilon = epsilon, spec.tier = tier, spec.attention = -1;
    spec.norm1_weight = reader.floats(name + "norm1.weight", {width}), spec.norm1_bias = reader.floats(name + "norm1.bias", {width});
    spec.norm2_weight = reader.floats(name + "norm2.weight", {width}), spec.norm2_bias = reader.floats(name + "norm2.bias", {width});
    spec.qkv = read_linear(name + "attn.qkv", 3 * int64_t(width), width, reader);
    spec.proj = read_linear(name + "attn.proj", width, width, reader);
    spec.activation = gated ? EDGEKIT_SWIGLU : EDGEKIT_GELU;
    spec.fc1 = read_linear(name + (gated ? "mlp.w12" : "mlp.fc1"), (gated ? 2 : 1) * int64_t(hidden), width, reader);
    spec.fc2 = read_linear(name + (gated ? "mlp.w3" : "mlp.fc2"), width, hidden, reader);
    if (reader.has(name + "mlp.fc2_gain")) spec.fc2_gain = reader.floats(name + "mlp.fc2_gain", {hidden});
    const float* scale = reader.floats(name + "attn.scale", {1});
    if (!reader.sound()) return reader.problem();
    spec.scale = *scale;
    const std::string problem = make_block(spec, blocks[size_t(index)]);
    const struct { const edgekit_linear& linear; int64_t count; } parts[] = {
        {spec.qkv, 3 * int64_t(width) * width}, {spec.proj, int64_t(width) * width},
        {spec.fc1, (gated ? 2 : 1) * int64_t(hidden) * width}, {spec.fc2, int64_t(hidden) * width}};
    for (const auto& part : parts)
        if (release) part.linear.exact ? release(part.linear.exact, size_t(part.count) * 4) : release(part.linear.weight, size_t(part.count));
    return problem.empty() ? "" : "block " + std::to_string(index) + ": " + problem;
}

std::string Network::read_blocks(const Container& container, const edgekit_threads* threads, Release release) {
    blocks.resize(size_t(depth));
    std::vector<std::string> problems(blocks.size());
    auto make = [&](size_t i) {
        Reader reader(container);
        // No exception may pass through the host's pool.
        guarded([&] { return problems[i] = read_block(int(i), reader, release), 0; });
        if (!blocks[i] && problems[i].empty()) problems[i] = "out of memory";
    };
    for_each(threads, blocks.size(), make);
    for (std::string& problem : problems)
        if (!problem.empty()) return problem;
    return "";
}

void Network::read_end(const Json& json, Reader& reader) {
    norm = {copied(reader.floats("norm.weight", {width}), width), copied(reader.floats("norm.bias", {width}), width), epsilon};
    if (reader.has("unrotate"))
        if (const float* matrix = reader.floats("unrotate", {width, width})) {
            unrotate = std::make_unique<FloatLinear>();
            unrotate->pack(matrix, nullptr, width, width);
        }
    Fields(&json, "description", reader).list("heads");
    Fields check(json.find("golden"), "golden", reader);
    least_cosine = float(check.number("least_cosine", -1, 1));
    golden = copied(reader.floats("golden.pooler_output", {width}), width);
    if (!reader.sound()) return;
    for (const Json& head : json.find("heads")->items()) {
        Program program;
        program.read(head, width, depth, norm.epsilon, reader);
        programs.push_back(std::move(program));
        if (!reader.sound()) return;
    }
}

std::string Network::read(const char* bytes, size_t size, const edgekit_threads* threads, Release release) {
    Container container;
    if (std::string problem = container.read(bytes, size); !problem.empty()) return problem;
    Json json;
    std::string problem;
    if (!Json::parse(container.metadata(), json, problem)) return "its description is not JSON: " + problem;
    Reader reader(container);
    read_shape(json, reader);
    if (reader.sound()) read_transform(json, reader);
    if (reader.sound()) read_tokens(reader);
    if (reader.sound()) read_end(json, reader);
    if (!reader.sound()) return reader.problem();
    description = container.metadata();
    return read_blocks(container, threads, release);
}

}  // namespace edgekit
