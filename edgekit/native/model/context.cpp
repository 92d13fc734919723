// A run: patches, blocks, final norm and heads, in memory that is laid out before it begins.
#include "context.h"

#include <algorithm>
#include <cstring>

namespace edgekit {

static constexpr int64_t most_batch = 1 << 16, most_tokens = 1 << 20, rows_at_once = 96;
static constexpr uint64_t most_bytes = uint64_t{1} << (sizeof(size_t) == 8 ? 40 : 31);

// Scratch of a task that multiplies up to `rows_at_once` rows by a float linear layer: the rows, then their sums.
static size_t product_bytes(const Linear& linear) {
    return rounded(linear.row_stride() * rows_at_once, 64) + size_t(rows_at_once) * linear.padded_out() * sizeof(float);
}

std::string Layout::plan(const Network& network, int images, int height, int width, const edgekit_threads* threads) {
    *this = {};
    if (height == 0 && width == 0) height = network.grid.rows * network.patch, width = network.grid.columns * network.patch;
    const std::string size = std::to_string(height) + "x" + std::to_string(width);
    if (images < 1 || images > most_batch) return "a batch of " + std::to_string(images) + " is not in 1.." + std::to_string(most_batch);
    if (height < 1 || width < 1 || height % network.patch || width % network.patch)
        return "image size " + size + " is not a positive multiple of " + std::to_string(network.patch);
    batch = images, grid = {height / network.patch, width / network.patch}, tokens = network.tokens(grid);
    if (tokens > most_tokens) return "image size " + size + " has " + std::to_string(tokens) + " tokens, at most " + std::to_string(most_tokens);
    const uint64_t rows = uint64_t(batch) * uint64_t(tokens), stream = rows * uint64_t(network.width) * sizeof(float);
    if (stream > most_bytes / 64) return "a batch of " + std::to_string(batch) + " images of " + size + " needs too much memory";
    BlockBytes block{};  // the most of any: blocks that are float have wider heads than those of integers
    for (const auto& each : network.blocks) {
        const BlockBytes own = bytes_of(each->data, batch, tokens, threads);
        block = {std::max(block.qkv, own.qkv), std::max(block.mixed, own.mixed), std::max(block.packed, own.packed), std::max(block.task, own.task)};
    }
    slots = threads ? (threads->threads ? int(std::min<size_t>(threads->threads, 1024)) : 4) : 1;
    task = std::max(block.task, product_bytes(network.embedding.view));
    if (network.unrotate) task = std::max(task, product_bytes(network.unrotate->view));
    pixels = add(uint64_t(batch) * 3 * uint64_t(height) * uint64_t(width) * sizeof(float));
    x = add(stream), hidden = add(stream), pooled = add(uint64_t(batch) * uint64_t(network.width) * sizeof(float));
    qkv = add(block.qkv), mixed = add(block.mixed), packed = add(block.packed);
    if (!(grid == network.grid)) {
        const uint64_t places = uint64_t(grid.patches()) * sizeof(float);
        if (network.rotary) cosines = add(places * uint64_t(network.head_dim() / 2)), sines = add(places * uint64_t(network.head_dim() / 2));
        else positions = add(places * uint64_t(network.width));
    }
    layers.assign(network.blocks.size(), 0);
    for (const Program& program : network.programs)
        for (int i : program.blocks())
            if (!layers[size_t(i)]) layers[size_t(i)] = add(stream);
    if (std::string problem = plan_heads(network); !problem.empty()) return problem;
    task = rounded(task, 64);
    tasks = add(uint64_t(task) * uint64_t(slots));
    return bytes > most_bytes ? "a batch of " + std::to_string(batch) + " images of " + size + " needs too much memory" : "";
}

std::string Layout::plan_heads(const Network& network) {
    uint64_t most = 0;
    for (const Program& program : network.programs) {
        ProgramPlan& plan = programs.emplace_back();
        if (std::string problem = program.plan(grid, network.first_patch(), network.width, plan); !problem.empty()) return problem;
        heads.push_back(add(uint64_t(batch) * plan.values.back().bytes()));
        most = std::max(most, plan.bytes), task = std::max(task, plan.task);
    }
    values = add(most);
    return "";
}

}  // namespace edgekit

using namespace edgekit;

std::string edgekit_context::prepare(int batch, int height, int width) {
    done = false;
    if (std::string problem = layout.plan(model->network, batch, height, width, threads); !problem.empty()) return problem;
    if (layout.bytes <= capacity) return "";
    if (given) return "this run needs " + std::to_string(layout.bytes) + " bytes of scratch memory, given are " + std::to_string(capacity);
    owned.reset(), memory = nullptr, capacity = 0;
    owned.reset(static_cast<char*>(::operator new(size_t(layout.bytes), std::align_val_t(64))));
    memory = owned.get(), capacity = layout.bytes;
    return "";
}

// Tokens of all images: class token and registers, then each patch's product with the embedding, bias and position.
bool edgekit_context::embed(const float* pixels, Slots* slots) {
    const Network& net = model->network;
    const Linear& linear = net.embedding.view;
    const int patch = net.patch, columns = layout.grid.columns;
    const int64_t patches = layout.grid.patches(), width = net.width, prefix = int64_t(net.prefix.size()), plane = patches * patch * patch;
    const float* places = net.positions.data();
    if (layout.positions) {
        resample_positions(places, net.grid, net.width, net.interpolation, layout.grid, at(layout.positions));
        places = at(layout.positions);
    }
    float* x = at(layout.x);
    for (int b = 0; b < layout.batch; ++b) std::copy(net.prefix.begin(), net.prefix.end(), x + b * layout.tokens * width);
    const int64_t rows = layout.batch * patches, parts = (rows + rows_at_once - 1) / rows_at_once;
    std::atomic<bool> enough{true};
    auto task = [&](size_t t) {
        const Part part(rows, 1, parts, int64_t(t));
        const Scratch scratch(slots, product_bytes(linear));
        if (!scratch.data()) { enough = false; return; }
        float* sums = reinterpret_cast<float*>(scratch.data() + rounded(linear.row_stride() * rows_at_once, 64));
        for (int64_t r = part.first; r < part.last; ++r) {
            float* row = reinterpret_cast<float*>(scratch.data() + size_t(r - part.first) * linear.row_stride());
            const int64_t place = r % patches;
            const float* from = pixels + r / patches * 3 * plane + (place / columns * columns * patch + place % columns) * patch;
            for (int c = 0; c < 3; ++c)
                for (int i = 0; i < patch; ++i, row += patch) std::copy_n(from + c * plane + int64_t(i) * columns * patch, patch, row);
        }
        active_kernels().gemm(linear, scratch.data(), sums, part.rows());
        for (int64_t r = part.first; r < part.last; ++r, sums += linear.padded_out()) {
            float* to = x + (r / patches * layout.tokens * width) + prefix + r % patches * width;
            if (net.rotary) {
                for (int64_t i = 0; i < width; ++i) to[i] = sums[i] + linear.bias[i];
            } else {
                const float* place = places + r % patches * width;
                for (int64_t i = 0; i < width; ++i) to[i] = sums[i] + linear.bias[i] + place[i];
            }
        }
    };
    for_each(threads, size_t(parts), task);
    return enough;
}

// from (rows, width) times the matrix of a model in a rotated basis; from and to may be the same.
bool edgekit_context::unrotate(const float* from, float* to, Slots* slots) {
    const Linear& linear = model->network.unrotate->view;
    const int64_t rows = layout.batch * layout.tokens, parts = (rows + rows_at_once - 1) / rows_at_once, width = linear.out;
    std::atomic<bool> enough{true};
    auto task = [&](size_t t) {
        const Part part(rows, 1, parts, int64_t(t));
        const Scratch scratch(slots, product_bytes(linear));
        if (!scratch.data()) { enough = false; return; }
        float* sums = reinterpret_cast<float*>(scratch.data() + rounded(linear.row_stride() * rows_at_once, 64));
        for (int r = 0; r < part.rows(); ++r)
            std::memcpy(scratch.data() + size_t(r) * linear.row_stride(), from + (part.first + r) * width, size_t(width) * sizeof(float));
        active_kernels().gemm(linear, scratch.data(), sums, part.rows());
        for (int r = 0; r < part.rows(); ++r) std::copy_n(sums + int64_t(r) * linear.padded_out(), width, to + (part.first + r) * width);
    };
    for_each(threads, size_t(parts), task);
    return enough;
}

bool edgekit_context::finish(Slots* slots) {
    const Network& net = model->network;
    const int64_t rows = layout.batch * layout.tokens, parts = (rows + rows_at_once - 1) / rows_at_once, width = net.width;
    float *x = at(layout.x), *hidden = at(layout.hidden), *pooled = at(layout.pooled);
    if (net.unrotate) {
        for (uint64_t layer : layout.layers)
            if (layer && !unrotate(at(layer), at(layer), slots)) return false;
        if (!unrotate(x, x, slots)) return false;
    }
    auto task = [&](size_t t) {
        const Part part(rows, 1, parts, int64_t(t));
        net.norm.run(x + part.first * width, hidden + part.first * width, part.rows());
    };
    for_each(threads, size_t(parts), task);
    for (int b = 0; b < layout.batch; ++b) std::copy_n(hidden + b * layout.tokens * width, width, pooled + b * width);
    return true;
}

bool edgekit_context::run_heads(Slots* slots) {
    const Network& net = model->network;
    const int64_t image = layout.tokens * net.width;
    for (size_t i = 0; i < net.programs.size(); ++i)
        for (int b = 0; b < layout.batch; ++b) {
            std::vector<const float*> layers;
            for (int block : net.programs[i].blocks()) layers.push_back(at(layout.layers[size_t(block)]) + b * image);
            float* output = at(layout.heads[i]) + b * layout.programs[i].values.back().count();
            if (!net.programs[i].run(layout.programs[i], layers, at(layout.hidden) + b * image, net.first_patch(), memory + layout.values, output, threads, slots))
                return false;
        }
    return true;
}

bool edgekit_context::run(const float* pixels) {
    const Network& net = model->network;
    Slots slots(memory + layout.tasks, layout.task, layout.slots);
    if (!embed(pixels, &slots)) return false;
    Rope rope{net.cosines.data(), net.sines.data(), net.first_patch()};
    if (layout.cosines) {
        rotary_tables(net.periods, layout.grid, at(layout.cosines), at(layout.sines));
        rope.cos = at(layout.cosines), rope.sin = at(layout.sines);
    }
    const BlockMemory between{at(layout.qkv), at(layout.mixed), memory + layout.packed};
    float* x = at(layout.x);
    for (size_t i = 0; i < net.blocks.size(); ++i) {
        if (!run_block(net.blocks[i]->data, x, x, layout.batch, layout.tokens, threads, net.rotary ? &rope : nullptr, between, &slots)) return false;
        if (layout.layers[i]) std::copy_n(x, layout.batch * layout.tokens * net.width, at(layout.layers[i]));
    }
    done = finish(&slots) && run_heads(&slots);
    return done;
}
