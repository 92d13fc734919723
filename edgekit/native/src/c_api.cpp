// The C interface of the ops: checks what comes from a program in C, and reports what is wrong with it.
#include <algorithm>
#include <optional>

#include "block.h"
#include "guard.h"
#include "tasks.h"

#ifndef EDGEKIT_SOURCES
#define EDGEKIT_SOURCES "unknown"
#endif

namespace edgekit {

static thread_local std::string last_error;

int refuse(std::string why) {
    last_error = std::move(why);
    return EDGEKIT_INVALID;
}

int no_memory() {
    last_error = "out of memory";
    return EDGEKIT_NO_MEMORY;
}

static Rope view_of(const edgekit_rope* rope, int64_t tokens) {
    return rope ? Rope{rope->cos, rope->sin, int(tokens - rope->tokens)} : Rope{nullptr, nullptr, int(tokens)};
}

static int run(const BlockData& d, const float* x, float* y, int64_t batch, int64_t tokens, const edgekit_threads* threads,
               const edgekit_rope* rope) {
    Attention a;
    a.scale = d.scale, a.mode = d.attention;
    if (std::string problem = problem_of(a, batch, tokens, d.width, d.heads); !problem.empty()) return refuse(problem);
    if (std::string problem = rope ? problem_of(*rope, tokens, d.width / d.heads) : ""; !problem.empty()) return refuse(problem);
    if (batch * tokens == 0) return EDGEKIT_OK;
    if (!x || !y) return refuse("x or y is NULL");
    const BlockBytes bytes = bytes_of(d, batch, tokens, threads);
    Workspace qkv(bytes.qkv), mixed(bytes.mixed), packed(bytes.packed);
    if (!qkv.data() || !mixed.data() || !packed.data()) return no_memory();
    const BlockMemory memory{reinterpret_cast<float*>(qkv.data()), reinterpret_cast<float*>(mixed.data()), packed.data()};
    const Rope angles = view_of(rope, tokens);
    const bool enough = run_block(d, x, y, batch, tokens, threads, rope ? &angles : nullptr, memory, nullptr);
    return enough ? int(EDGEKIT_OK) : no_memory();
}

static int attend(Attention& a, int64_t batch, const edgekit_threads* threads, const edgekit_rope* rope) {
    std::optional<Workspace> rotated;
    if (rope) {
        const size_t count = size_t(batch * a.tokens) * a.stride;
        float* copy = reinterpret_cast<float*>(rotated.emplace(count * sizeof(float)).data());
        if (!copy) return no_memory();
        std::copy_n(a.qkv, count, copy);
        rotate_all(a, view_of(rope, a.tokens), copy, batch, threads);
        a.qkv = copy;
    }
    const Workspace packed(packed_bytes(a, batch));
    return packed.data() && attend_all(a, batch, threads, packed.data(), nullptr) ? int(EDGEKIT_OK) : no_memory();
}

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
        std::unique_ptr<edgekit_block> made;
        if (std::string problem = make_block(*spec, made); !problem.empty()) return refuse(problem);
        *block = made.release();
        return int(EDGEKIT_OK);
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
        return attend(a, batch, threads, rope);
    });
}
