// A picture's embedding with ONNX Runtime and edgekit's fused ops: onnxruntime_embed BUNDLE MODEL.onnx --check | PICTURE [PICTURE]
#include <cstdlib>

#include "golden.h"
#include "ort/ort_abi.h"  // no header of ONNX Runtime is needed, any release from 1.18 on runs this

extern "C" const ort::ApiBase* OrtGetApiBase();
extern "C" ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base);  // of edgekit_ops

namespace ort {

struct Environment;
struct Session;
struct RunOptions;
struct MemoryInfo;

// Slots of the table, as in ort_abi.h.
inline constexpr Slot<2, const char*, const Status*> message;
inline constexpr Slot<3, Status*, int, const char*, Environment**> create_environment;
inline constexpr Slot<7, Status*, const Environment*, const char*, const SessionOptions*, Session**> create_session;
inline constexpr Slot<9, Status*, Session*, const RunOptions*, const char* const*, const Value* const*, size_t,
                      const char* const*, size_t, Value**> run;
inline constexpr Slot<10, Status*, SessionOptions**> create_options;
inline constexpr Slot<49, Status*, const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, Value**> create_tensor;
inline constexpr Slot<64, Status*, const TensorInfo*, size_t*> element_count;
inline constexpr Slot<69, Status*, int, int, MemoryInfo**> create_cpu_memory;
inline constexpr Slot<96, void, Value*> release_value;

}  // namespace ort

static const ort::Api* api;

static void check(ort::Status* status) {
    if (!status) return;
    const std::string words = ort::message(api, status);
    ort::release_status(api, status);
    throw std::runtime_error(words);
}

int main(int argc, char** argv) try {
    if (argc < 4) return fprintf(stderr, "usage: %s BUNDLE MODEL.onnx --check | PICTURE [PICTURE]\n", argv[0]), 2;
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // ONNX Runtime reports its use to Microsoft otherwise, from 1.29 on
    api = OrtGetApiBase()->get_api(ort::api_version);
    if (!api) throw std::runtime_error("ONNX Runtime 1.18 or newer is needed");

    // Environment, session and options live as long as the program.
    ort::Environment* environment;
    ort::SessionOptions* options;
    ort::Session* session;
    ort::MemoryInfo* memory;
    check(ort::create_environment(api, 2 /* warnings */, "edgekit", &environment));
    check(ort::create_options(api, &options));
    check(RegisterCustomOps(options, OrtGetApiBase()));
    check(ort::create_session(api, environment, argv[2], options, &session));
    check(ort::create_cpu_memory(api, 1 /* arena */, 0 /* default */, &memory));
    const char *input_name = "pixel_values", *output_name = "pooler_output";

    return embed_pictures(argv[1], argc - 3, argv + 3, [&](std::vector<float> pixel_values, int height, int width) {
        const int64_t shape[] = {1, 3, height, width};
        ort::Value *input, *output = nullptr;
        check(ort::create_tensor(api, memory, pixel_values.data(), pixel_values.size() * sizeof(float), shape, 4,
                                 ort::element_float, &input));
        check(ort::run(api, session, nullptr, &input_name, &input, 1, &output_name, 1, &output));
        ort::TensorInfo* info;
        size_t count;
        void* data;
        check(ort::tensor_info(api, output, &info));
        check(ort::element_count(api, info, &count));
        check(ort::tensor_data(api, output, &data));
        const float* values = static_cast<const float*>(data);
        const std::vector<float> result(values, values + count);
        ort::release_info(api, info);
        ort::release_value(api, output);
        ort::release_value(api, input);
        return result;
    });
} catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
}
