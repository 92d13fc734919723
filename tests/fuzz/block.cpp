// libFuzzer target: blocks are created, run and destroyed, and attention is run alone, through the C interface.
#include <cstdlib>
#include <memory>
#include <utility>

#include "edgekit_ops.h"
#include "material.h"

namespace {

using fuzz::Arrays;
using fuzz::product;

void require(bool holds) {
    if (!holds) abort();
}

// What a call may answer: success, or a refusal with a sentence.
bool succeeded(int code) {
    require(code == EDGEKIT_OK || ((code == EDGEKIT_INVALID || code == EDGEKIT_NO_MEMORY) && *edgekit_last_error()));
    return code == EDGEKIT_OK;
}

// A host's pool that begins with the last task.
void backwards(void*, void (*task)(void*, size_t), size_t count, void* argument) {
    while (count) task(argument, --count);
}

struct Run {
    int64_t batch, tokens;
    edgekit_threads threads{nullptr, backwards, 0};
    edgekit_rope rope{};
    bool threaded, rotated;

    Run(FuzzedDataProvider& data, Arrays& arrays, int64_t width, int64_t heads)
        : batch(fuzz::size(data, 0, 3)), tokens(fuzz::size(data, 0, 40)), threaded(data.ConsumeBool()), rotated(data.ConsumeBool()) {
        threads.threads = fuzz::rarely(data) ? SIZE_MAX : data.ConsumeIntegralInRange<size_t>(0, 9);
        if (!rotated) return;
        const int64_t most = tokens > 0 && tokens <= 40 ? tokens : 0;
        rope.tokens = fuzz::size(data, 0, most);
        const int64_t half = heads > 0 && width > 0 ? width / heads / 2 : 0, count = product(rope.tokens, half);
        rope.cos = arrays.floats(count), rope.sin = arrays.floats(count);
    }
    const edgekit_threads* pool() const { return threaded ? &threads : nullptr; }
    const edgekit_rope* angles() const { return rotated ? &rope : nullptr; }
};

edgekit_linear linear(Arrays& arrays, int64_t in, int64_t out, bool exact) {
    const int64_t count = product(in, out);
    return {exact ? nullptr : arrays.integers(count), exact ? nullptr : arrays.floats(out), arrays.floats(out),
            exact ? arrays.floats(count) : nullptr};
}

// Its constants may be freed once the block is made.
edgekit_block* made(FuzzedDataProvider& data, int64_t width, int64_t heads) {
    Arrays arrays(data);
    edgekit_block_spec spec{};
    spec.width = width, spec.heads = heads, spec.hidden = fuzz::size(data, 1, 150);
    spec.scale = fuzz::number(data, 0.3f), spec.epsilon = fuzz::number(data, 1e-6f);
    spec.tier = fuzz::rarely(data) ? data.ConsumeIntegral<int32_t>() : data.ConsumeIntegralInRange<int32_t>(0, 2);
    spec.attention = fuzz::rarely(data) ? data.ConsumeIntegral<int32_t>() : data.ConsumeIntegralInRange<int32_t>(-1, 4);
    spec.activation = fuzz::rarely(data) ? data.ConsumeIntegral<int32_t>() : data.ConsumeIntegralInRange<int32_t>(0, 1);
    const bool exact = spec.tier == EDGEKIT_EXACT;
    for (const float** norm : {&spec.norm1_weight, &spec.norm1_bias, &spec.norm2_weight, &spec.norm2_bias}) *norm = arrays.floats(width);
    const int64_t hidden = spec.hidden, outputs = spec.activation == EDGEKIT_SWIGLU ? product(2, hidden) : hidden;
    spec.qkv = linear(arrays, width, product(3, width), exact), spec.proj = linear(arrays, width, width, exact);
    spec.fc1 = linear(arrays, width, outputs, exact), spec.fc2 = linear(arrays, hidden, width, exact);
    if (data.ConsumeBool()) spec.fc2_gain = arrays.floats(hidden);
    edgekit_block* block = nullptr;
    const bool there = succeeded(edgekit_block_create(fuzz::rarely(data, 64) ? nullptr : &spec, fuzz::rarely(data, 64) ? nullptr : &block));
    require(there == (block != nullptr));
    return block;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    FuzzedDataProvider data(bytes, size);
    const int64_t heads = fuzz::size(data, 1, 4);
    const int64_t width = fuzz::rarely(data) ? fuzz::size(data, 1, 90) : product(heads, data.ConsumeIntegralInRange(1, 40));
    const bool attention_alone = data.ConsumeBool();
    std::unique_ptr<edgekit_block, void (*)(edgekit_block*)> block(attention_alone ? nullptr : made(data, width, heads), edgekit_block_destroy);
    if (!attention_alone && !block) return 0;
    Arrays arrays(data);
    const Run run(data, arrays, width, heads);
    const int64_t rows = product(run.batch, run.tokens);
    float* x = arrays.floats(product(rows, attention_alone ? product(3, width) : width));
    float* y = !attention_alone && data.ConsumeBool() ? x : arrays.floats(product(rows, width));
    if (attention_alone) {
        const int32_t mode = fuzz::rarely(data) ? data.ConsumeIntegral<int32_t>() : data.ConsumeIntegralInRange<int32_t>(0, 4);
        succeeded(edgekit_attention_run(x, y, run.batch, run.tokens, width, heads, fuzz::number(data, 0.3f), mode, run.pool(), run.angles()));
    } else {
        succeeded(edgekit_block_run(block.get(), x, y, run.batch, run.tokens, run.pool(), run.angles()));
    }
    return 0;
}
