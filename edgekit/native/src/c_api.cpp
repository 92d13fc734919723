// The C interface: work split into tasks for the host's threads.
#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <optional>

#include "block.h"
#include "workspace.h"

#ifndef EDGEKIT_SOURCES
#define EDGEKIT_SOURCES "unknown"
#endif

namespace edgekit {
namespace {

thread_local std::string last_error;

int no_memory() {
    last_error = "out of memory";
    return EDGEKIT_NO_MEMORY;
}

// Runs `body`; no exception passes into a program in C.
template <class Body>
int guarded(Body&& body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return no_memory();
    } catch (const std::exception& error) {
        return refuse(error.what());
    }
}

template <class Task>
void for_each(const edgekit_threads* threads, size_t count, Task& task) {
    if (threads && threads->run && count > 1)
        threads->run(threads->pool, [](void* argument, size_t i) { (*static_cast<Task*>(argument))(i); }, count, &task);
    else
        for (size_t i = 0; i < count; ++i) task(i);
}

// Rows of the i-th of `count` nearly equal parts, [first, last); all parts but the last are multiples of `multiple`.
struct Part {
    int64_t first, last;
    Part(int64_t rows, int64_t multiple, int64_t count, int64_t i) {
        const int64_t units = (rows + multiple - 1) / multiple;
        first = units * i / count * multiple, last = std::min(rows, units * (i + 1) / count * multiple);
    }
    int rows() const { return int(last - first); }
};

// Every part reads all weights. Vectors of dot products: some 48 rows pay for that, twice as many where weights are floats,
// and a multiple of 4 parts keeps 2 and 4 threads busy. Tiles multiply so fast that 64 rows cost 10 % more than all rows at
// once: as many parts as threads, of 288 rows at most.
int64_t parts_of(int64_t rows, const Kernels& kernels, Format format, const edgekit_threads* threads) {
    if (is_tiled(format)) {
        const int64_t units = (rows + kernels.row_multiple - 1) / kernels.row_multiple;
        const int64_t workers = !threads ? 1 : threads->threads ? std::min<int64_t>(threads->threads, 1024) : 4;
        const int64_t least = (units + 8) / 9;
        if (least > workers) return (least + workers - 1) / workers * workers;
        return std::max<int64_t>(1, std::min(workers, units / 2));
    }
    const int64_t enough = format == Format::f32 ? 96 : 48, parts = (rows + enough - 1) / enough;
    return parts < 4 ? std::min<int64_t>(std::max<int64_t>(1, rows / 8), 4) : (parts + 3) / 4 * 4;
}

}  // namespace

int refuse(std::string why) {
    last_error = std::move(why);
    return EDGEKIT_INVALID;
}

// Rotates queries and keys in place, image by image.
static void rotate_all(const Attention& a, const Rope& rope, float* qkv, int64_t batch, const edgekit_threads* threads) {
    auto rotate = [&](size_t i) { active_kernels().rotate(a, rope, qkv + i * a.tokens * a.stride, 0, a.tokens); };
    for_each(threads, size_t(batch), rotate);
}

static Rope view_of(const edgekit_rope* rope, int64_t tokens) {
    return rope ? Rope{rope->cos, rope->sin, int(tokens - rope->tokens)} : Rope{nullptr, nullptr, int(tokens)};
}

bool attend_all(Attention a, int64_t batch, const edgekit_threads* threads) {
    const Kernels& k = active_kernels();
    const size_t heads = size_t(a.heads), head_bytes = rounded(k.head_bytes(a), 64);
    const size_t query_rows = size_t(k.query_rows(a)), blocks = (a.tokens + query_rows - 1) / query_rows;
    Workspace packed(head_bytes * heads * batch);
    std::atomic<bool> enough{packed.data() != nullptr};
    if (!enough) return false;
    auto pack = [&](size_t i) { k.pack_head(a, int(i / heads), int(i % heads), packed.data() + i * head_bytes); };
    for_each(threads, heads * batch, pack);
    const int64_t multiple = query_rows % k.row_multiple ? 1 : k.row_multiple;
    auto attend = [&](size_t i) {
        const Part part(a.tokens, multiple, blocks, i % blocks);
        Workspace scratch(k.attend_scratch(a));
        if (!scratch.data()) { enough = false; return; }
        const size_t pair = i / blocks;
        k.attend(a, int(pair / heads), int(pair % heads), int(part.first), part.rows(), packed.data() + pair * head_bytes,
                 scratch.data());
    };
    for_each(threads, heads * batch * blocks, attend);
    return enough;
}

namespace {

int create(const edgekit_block_spec& spec, edgekit_block** block) {
    if (std::string problem = problem_of(spec); !problem.empty()) return refuse(problem);
    const Kernels& k = active_kernels();
    auto made = std::make_unique<edgekit_block>();
    const int width = int(spec.width), hidden = int(spec.hidden);
    const bool quality = spec.tier == EDGEKIT_QUALITY, exact = spec.tier == EDGEKIT_EXACT;
    const Format format = exact ? Format::f32 : k.formats[spec.tier];
    const float* norms[] = {spec.norm1_weight, spec.norm1_bias, spec.norm2_weight, spec.norm2_bias};
    for (int i = 0; i < 4; ++i) made->norms[i].assign(norms[i], norms[i] + width);
    PackedLinear qkv(spec.qkv, width, 3 * width, format), proj(spec.proj, width, width, format);
    PackedLinear fc2(spec.fc2, hidden, width, format);
    std::optional<GatedLinear> gated;
    if (spec.activation == EDGEKIT_SWIGLU) gated.emplace(spec.fc1, width, hidden, spec.fc2_gain, k.columns);
    PackedLinear fc1(gated ? gated->view : spec.fc1, width, gated ? gated->out : hidden, format);
    made->weights = std::make_unique<Memory>(qkv.bytes() + proj.bytes() + fc1.bytes() + fc2.bytes());
    char* at = made->weights->data();
    qkv.pack(quality, nullptr, at);
    proj.pack(quality, nullptr, at += qkv.bytes());
    fc1.pack(quality, gated ? nullptr : spec.fc2_gain, at += proj.bytes());
    fc2.pack(quality, nullptr, at += fc1.bytes());
    BlockData& d = made->data;
    d.width = width, d.hidden = hidden, d.heads = int(spec.heads), d.scale = spec.scale, d.gated = gated.has_value();
    d.attention = spec.attention >= 0 ? spec.attention : exact ? int(EDGEKIT_F32) : k.attention[spec.tier];
    d.norm1 = {made->norms[0].data(), made->norms[1].data(), spec.epsilon};
    d.norm2 = {made->norms[2].data(), made->norms[3].data(), spec.epsilon};
    d.qkv = qkv.view, d.proj = proj.view, d.fc1 = fc1.view, d.fc2 = fc2.view;
    *block = made.release();
    return EDGEKIT_OK;
}

int run(const BlockData& d, const float* x, float* y, int64_t batch, int64_t tokens, const edgekit_threads* threads,
        const edgekit_rope* rope) {
    Attention a;
    a.scale = d.scale, a.mode = d.attention;
    if (std::string problem = problem_of(a, batch, tokens, d.width, d.heads); !problem.empty()) return refuse(problem);
    if (std::string problem = rope ? problem_of(*rope, tokens, d.width / d.heads) : ""; !problem.empty()) return refuse(problem);
    const Rope angles = view_of(rope, tokens);
    const int64_t rows = batch * tokens;
    if (rows == 0) return EDGEKIT_OK;
    if (!x || !y) return refuse("x or y is NULL");
    const Kernels& k = active_kernels();
    const size_t stride = size_t(d.qkv.padded_out());
    Workspace qkv(rows * stride * sizeof(float)), mixed(size_t(rows) * d.width * sizeof(float));
    if (!qkv.data() || !mixed.data()) return no_memory();
    a.qkv = reinterpret_cast<float*>(qkv.data()), a.out = reinterpret_cast<float*>(mixed.data());
    a.tokens = int(tokens), a.width = d.width, a.heads = d.heads, a.dim = d.width / d.heads, a.stride = stride;

    const int64_t parts = parts_of(rows, k, d.qkv.format, threads);
    std::atomic<bool> enough{true};
    auto project = [&](size_t i) {
        const Part part(rows, k.row_multiple, parts, i);
        Workspace scratch(k.rows_scratch(d, part.rows()));
        if (!scratch.data()) { enough = false; return; }
        float* to = reinterpret_cast<float*>(qkv.data()) + part.first * stride;
        k.project(d, x + part.first * d.width, to, part.rows(), scratch.data());
        if (rope) k.rotate(a, angles, to, int(part.first % tokens), part.rows());  // while they are in L2
    };
    auto finish = [&](size_t i) {
        const Part part(rows, k.row_multiple, parts, i);
        Workspace scratch(k.rows_scratch(d, part.rows()));
        if (!scratch.data()) { enough = false; return; }
        k.finish(d, x + part.first * d.width, a.out + part.first * d.width, y + part.first * d.width, part.rows(), scratch.data());
    };
    for_each(threads, parts, project);
    if (!enough || !attend_all(a, batch, threads)) return no_memory();
    for_each(threads, parts, finish);
    return enough ? int(EDGEKIT_OK) : no_memory();
}

}  // namespace
}  // namespace edgekit

using namespace edgekit;

const char* edgekit_version(void) { return EDGEKIT_SOURCES; }
const char* edgekit_isa(void) { return active_kernels().name; }
const char* edgekit_isas(void) { return kernels_available(); }
const char* edgekit_last_error(void) { return last_error.c_str(); }

int edgekit_block_create(const edgekit_block_spec* spec, edgekit_block** block) {
    return guarded([&] {
        if (!spec || !block) return refuse("spec or block is NULL");
        *block = nullptr;
        return create(*spec, block);
    });
}

void edgekit_block_destroy(edgekit_block* block) { delete block; }

int edgekit_block_run(const edgekit_block* block, const float* x, float* y, int64_t batch, int64_t tokens,
                      const edgekit_threads* threads, const edgekit_rope* rope) {
    return guarded([&] { return block ? run(block->data, x, y, batch, tokens, threads, rope) : refuse("block is NULL"); });
}

int edgekit_attention_run(const float* qkv, float* out, int64_t batch, int64_t tokens, int64_t width, int64_t heads,
                          float scale, int32_t mode, const edgekit_threads* threads, const edgekit_rope* rope) {
    return guarded([&] {
        Attention a;
        a.scale = scale, a.mode = mode;
        if (std::string problem = problem_of(a, batch, tokens, width, heads); !problem.empty()) return refuse(problem);
        if (std::string problem = rope ? problem_of(*rope, tokens, width / heads) : ""; !problem.empty()) return refuse(problem);
        if (batch * tokens == 0) return int(EDGEKIT_OK);
        if (!qkv || !out) return refuse("qkv or out is NULL");
        a.qkv = qkv, a.out = out, a.tokens = int(tokens), a.width = int(width), a.heads = int(heads);
        a.dim = int(width / heads), a.stride = size_t(3 * width);
        std::optional<Workspace> rotated;
        if (rope) {
            const size_t count = size_t(batch * tokens) * a.stride;
            float* copy = reinterpret_cast<float*>(rotated.emplace(count * sizeof(float)).data());
            if (!copy) return no_memory();
            std::copy_n(qkv, count, copy);
            rotate_all(a, view_of(rope, tokens), copy, batch, threads);
            a.qkv = copy;
        }
        return attend_all(a, batch, threads) ? int(EDGEKIT_OK) : no_memory();
    });
}
