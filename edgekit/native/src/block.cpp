// A transformer block: made from its constants, and run as tasks for the host's threads.
#include "block.h"

#include "tasks.h"

namespace edgekit {

// Rotates queries and keys in place, image by image.
void rotate_all(const Attention& a, const Rope& rope, float* qkv, int64_t batch, const edgekit_threads* threads) {
    auto rotate = [&](size_t i) { active_kernels().rotate(a, rope, qkv + i * a.tokens * a.stride, 0, a.tokens); };
    for_each(threads, size_t(batch), rotate);
}

size_t packed_bytes(const Attention& a, int64_t batch) {
    return rounded(active_kernels().head_bytes(a), 64) * size_t(a.heads) * size_t(batch);
}

bool attend_all(const Attention& a, int64_t batch, const edgekit_threads* threads, char* packed, Slots* slots) {
    const Kernels& k = active_kernels();
    const size_t heads = size_t(a.heads), head_bytes = rounded(k.head_bytes(a), 64);
    const size_t query_rows = size_t(k.query_rows(a)), blocks = (a.tokens + query_rows - 1) / query_rows;
    std::atomic<bool> enough{true};
    auto pack = [&](size_t i) { k.pack_head(a, int(i / heads), int(i % heads), packed + i * head_bytes); };
    for_each(threads, heads * batch, pack);
    const int64_t multiple = query_rows % k.row_multiple ? 1 : k.row_multiple;
    auto attend = [&](size_t i) {
        const Part part(a.tokens, multiple, blocks, i % blocks);
        const Scratch scratch(slots, k.attend_scratch(a));
        if (!scratch.data()) { enough = false; return; }
        const size_t pair = i / blocks;
        k.attend(a, int(pair / heads), int(pair % heads), int(part.first), part.rows(), packed + pair * head_bytes,
                 scratch.data());
    };
    for_each(threads, heads * batch * blocks, attend);
    return enough;
}

std::string make_block(const edgekit_block_spec& spec, std::unique_ptr<edgekit_block>& block) {
    if (std::string problem = problem_of(spec); !problem.empty()) return problem;
    const Kernels& k = active_kernels();
    auto made = std::make_unique<edgekit_block>();
    const int width = int(spec.width), hidden = int(spec.hidden);
    const bool quality = spec.tier == EDGEKIT_QUALITY;
    const bool exact = spec.tier == EDGEKIT_EXACT || (spec.qkv.exact && spec.proj.exact && spec.fc1.exact && spec.fc2.exact);
    const auto format = [&](const edgekit_linear& linear) { return linear.exact ? Format::f32 : k.formats[spec.tier]; };
    const float* norms[] = {spec.norm1_weight, spec.norm1_bias, spec.norm2_weight, spec.norm2_bias};
    for (int i = 0; i < 4; ++i) made->norms[i].assign(norms[i], norms[i] + width);
    PackedLinear qkv(spec.qkv, width, 3 * width, format(spec.qkv)), proj(spec.proj, width, width, format(spec.proj));
    PackedLinear fc2(spec.fc2, hidden, width, format(spec.fc2));
    std::optional<GatedLinear> gated;
    if (spec.activation == EDGEKIT_SWIGLU) gated.emplace(spec.fc1, width, hidden, spec.fc2_gain, k.columns);
    PackedLinear fc1(gated ? gated->view : spec.fc1, width, gated ? gated->out : hidden, format(spec.fc1));
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
    block = std::move(made);
    return "";
}

static Attention attention_of(const BlockData& d, int64_t tokens) {
    Attention a;
    a.scale = d.scale, a.mode = d.attention, a.tokens = int(tokens), a.width = d.width, a.heads = d.heads;
    a.dim = d.width / d.heads, a.stride = size_t(d.qkv.padded_out());
    return a;
}

BlockBytes bytes_of(const BlockData& d, int64_t batch, int64_t tokens, const edgekit_threads* threads) {
    const Kernels& k = active_kernels();
    const Attention a = attention_of(d, tokens);
    const int64_t rows = batch * tokens, parts = parts_of(rows, k, d.qkv.format, threads);
    const size_t task = k.rows_scratch(d, int(Part::most(rows, k.row_multiple, parts)));
    return {size_t(rows) * a.stride * sizeof(float), size_t(rows) * d.width * sizeof(float), packed_bytes(a, batch),
            rounded(std::max(task, k.attend_scratch(a)), 64)};
}

bool run_block(const BlockData& d, const float* x, float* y, int64_t batch, int64_t tokens, const edgekit_threads* threads,
               const Rope* rope, const BlockMemory& memory, Slots* slots) {
    const Kernels& k = active_kernels();
    Attention a = attention_of(d, tokens);
    a.qkv = memory.qkv, a.out = memory.mixed;
    const int64_t rows = batch * tokens, parts = parts_of(rows, k, d.qkv.format, threads);
    std::atomic<bool> enough{true};
    auto project = [&](size_t i) {
        const Part part(rows, k.row_multiple, parts, i);
        const Scratch scratch(slots, k.rows_scratch(d, part.rows()));
        if (!scratch.data()) { enough = false; return; }
        float* to = memory.qkv + part.first * a.stride;
        k.project(d, x + part.first * d.width, to, part.rows(), scratch.data());
        if (rope) k.rotate(a, *rope, to, int(part.first % tokens), part.rows());  // while they are in L2
    };
    auto finish = [&](size_t i) {
        const Part part(rows, k.row_multiple, parts, i);
        const Scratch scratch(slots, k.rows_scratch(d, part.rows()));
        if (!scratch.data()) { enough = false; return; }
        k.finish(d, x + part.first * d.width, a.out + part.first * d.width, y + part.first * d.width, part.rows(), scratch.data());
    };
    for_each(threads, parts, project);
    if (!enough || !attend_all(a, batch, threads, memory.packed, slots)) return false;
    for_each(threads, parts, finish);
    return enough;
}

}  // namespace edgekit
