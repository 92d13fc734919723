// A picture's embedding with OpenVINO: openvino_embed BUNDLE MODEL.xml --check | PICTURE [PICTURE]
#include <openvino/openvino.hpp>

#include "golden.h"

int main(int argc, char** argv) try {
    if (argc < 4) return fprintf(stderr, "usage: %s BUNDLE MODEL.xml --check | PICTURE [PICTURE]\n", argv[0]), 2;
    ov::Core core;  // for a fused model: core.add_extension(...) first, see README.md
    ov::CompiledModel model = core.compile_model(argv[2], "CPU",
                                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                                 ov::hint::inference_precision(ov::element::f32));
    // Without the last one, OpenVINO would compute in bfloat16 what is float in the model, on CPUs that have it.
    ov::InferRequest request = model.create_infer_request();

    return embed_pictures(argv[1], argc - 3, argv + 3, [&](const std::vector<float>& pixel_values, int height, int width) {
        ov::Tensor input(ov::element::f32, ov::Shape{1, 3, size_t(height), size_t(width)});
        if (input.get_size() != pixel_values.size()) throw std::runtime_error("the bundle is of another image size");
        std::copy(pixel_values.begin(), pixel_values.end(), input.data<float>());
        request.set_tensor("pixel_values", input);
        request.infer();
        const ov::Tensor output = request.get_tensor("pooler_output");
        return std::vector<float>(output.data<const float>(), output.data<const float>() + output.get_size());
    });
} catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
}
