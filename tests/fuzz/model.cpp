// libFuzzer target: a whole model is read from bytes, and run where it was accepted.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>

#include "edgekit_model.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* bytes, size_t size, size_t most);

namespace {

constexpr size_t length_bytes = sizeof(uint64_t), most_memory = size_t{1} << 26;

bool succeeded(int code) {
    if (code == EDGEKIT_OK) return true;
    if ((code != EDGEKIT_INVALID && code != EDGEKIT_NO_MEMORY) || !*edgekit_last_error()) abort();
    return false;
}

void run(FuzzedDataProvider& data, const edgekit_model* model) {
    int32_t height = 0, width = 0;
    if (!succeeded(edgekit_model_input_size(model, &height, &width)) || height < 1 || width < 1 || !edgekit_model_describe(model)) abort();
    if (data.ConsumeBool()) height = data.ConsumeIntegralInRange<int32_t>(-1, 300), width = data.ConsumeIntegralInRange<int32_t>(-1, 300);
    const int32_t batch = data.ConsumeIntegralInRange<int32_t>(-1, 2), threads = data.ConsumeIntegralInRange<int32_t>(-1, 2);
    const size_t bytes = edgekit_context_bytes(model, batch, height, width, threads);
    if (bytes == 0 || bytes > most_memory) return;
    edgekit_context_options options{};
    options.size = sizeof options, options.threads = threads;
    edgekit_context* made = nullptr;
    if (!succeeded(edgekit_context_create(model, &options, &made))) return;
    const std::unique_ptr<edgekit_context, void (*)(edgekit_context*)> context(made, edgekit_context_destroy);
    const size_t pixels = size_t(batch) * 3 * size_t(height) * size_t(width);
    const std::unique_ptr<float[]> picture(new float[pixels]());
    if (height > 0 && width > 0 && succeeded(edgekit_context_run(context.get(), picture.get(), batch, height, width)))
        for (int32_t i = -1; i <= edgekit_model_outputs(model); ++i) {
            edgekit_output output{};
            if (!succeeded(edgekit_context_output(context.get(), i, &output))) continue;
            size_t count = 1;
            for (int32_t side = 0; side < output.rank; ++side) count *= size_t(output.shape[side]);
            float sum = 0;
            for (size_t place = 0; place < count; ++place) sum += output.values[place];  // all of it can be read
            static volatile float kept;
            kept = sum;
        }
    float cosine;
    succeeded(edgekit_context_check(context.get(), &cosine));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    const size_t choices = std::min<size_t>(size, 16), length = size - choices;  // the last bytes say how it is run
    FuzzedDataProvider data(bytes + length, choices);
    const std::unique_ptr<uint8_t[]> file(new uint8_t[length]);
    if (length) memcpy(file.get(), bytes, length);
    edgekit_model* model = nullptr;
    const bool opened = succeeded(edgekit_model_open(file.get(), length, nullptr, &model));
    if (opened != (model != nullptr)) abort();
    if (!opened) return 0;
    run(data, model);
    edgekit_model_close(model);
    return 0;
}

// Changes the header or the tensors of a file, and keeps the length in front of the header right: random bytes get no further
// than that.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* bytes, size_t size, size_t most, unsigned seed) {
    uint64_t header = 0;
    if (size > length_bytes) memcpy(&header, bytes, length_bytes);
    if (size <= length_bytes || header > size - length_bytes || seed % 16 == 0) return LLVMFuzzerMutate(bytes, size, most);
    const size_t tail = size - length_bytes - header;
    if (seed % 4 == 0) return length_bytes + header + LLVMFuzzerMutate(bytes + length_bytes + header, tail, most - length_bytes - header);
    const size_t room = header + std::min<size_t>(200, most - size);
    std::vector<uint8_t> text(bytes + length_bytes, bytes + length_bytes + header), rest(bytes + length_bytes + header, bytes + size);
    text.resize(room + 1);
    const uint64_t changed = LLVMFuzzerMutate(text.data(), header, room);
    memcpy(bytes, &changed, length_bytes);
    memcpy(bytes + length_bytes, text.data(), changed);
    if (tail) memcpy(bytes + length_bytes + changed, rest.data(), tail);
    return length_bytes + changed + tail;
}
