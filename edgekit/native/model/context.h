// One run of a model at a time: what it needs in memory, and the run itself.
#pragma once

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "edgekit_model.h"
#include "network.h"
#include "pool.h"
#include "tasks.h"

struct edgekit_model {
    edgekit::Network network;
};

namespace edgekit {

int open_model(const void* bytes, size_t size, const edgekit_threads* host, Release release, edgekit_model** model);

// Where everything of a run lies: offsets in bytes, each a multiple of 64.
struct Layout {
    int batch = 0;
    Grid grid;
    int64_t tokens = 0;
    uint64_t pixels = 0, x = 0, hidden = 0, pooled = 0, qkv = 0, mixed = 0, packed = 0, positions = 0, cosines = 0, sines = 0, tasks = 0, values = 0;
    std::vector<uint64_t> layers;  // the residual stream behind each block that a head wants, by block; 0: not wanted
    std::vector<uint64_t> heads;   // their outputs
    std::vector<ProgramPlan> programs;
    size_t task = 0;  // bytes of each of `slots`
    int slots = 1;
    uint64_t bytes = 0;

    // Empty, or why there is no such run. Height and width in pixels, 0: the model's.
    std::string plan(const Network& network, int batch, int height, int width, const edgekit_threads* threads);

private:
    uint64_t add(uint64_t size) {
        const uint64_t at = bytes;
        bytes += (size + 63) / 64 * 64;
        return at;
    }
    std::string plan_heads(const Network& network);
};

}  // namespace edgekit

namespace edgekit {

struct AlignedDelete {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

}  // namespace edgekit

struct edgekit_context {
    const edgekit_model* model = nullptr;
    const edgekit_threads* threads = nullptr;  // null: the calling thread alone
    std::unique_ptr<edgekit::ThreadPool> pool;
    std::unique_ptr<char, edgekit::AlignedDelete> owned;
    char* memory = nullptr;
    uint64_t capacity = 0;
    bool given = false;  // the memory is the host's
    bool done = false;   // there are outputs
    edgekit::Layout layout;

    // Empty, or why a run of that size cannot be; nothing is left of the last run then.
    std::string prepare(int batch, int height, int width);
    // False when memory is short.
    bool run(const float* pixels);
    float* at(uint64_t offset) const { return reinterpret_cast<float*>(memory + offset); }

private:
    bool embed(const float* pixels, edgekit::Slots* slots);
    bool unrotate(const float* from, float* to, edgekit::Slots* slots);
    bool finish(edgekit::Slots* slots);
    bool run_heads(edgekit::Slots* slots);
};
