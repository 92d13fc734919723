// OpenVINO extension: the fused ops as ov::Op over the C interface, found by domain and name in ONNX files and
// IRs. Built against one OpenVINO release; edgekit/native/openvino_library.py compiles it on demand. evaluate() runs in
// the CPU plugin's own threads through ov::parallel_for.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/core/parallel.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>

#include "../include/edgekit_ops.h"

namespace edgekit {
namespace {

void run_in_plugin(void*, void (*task)(void*, size_t), size_t count, void* argument) {
    ov::parallel_for(count, [&](size_t i) { task(argument, i); });
}

edgekit_threads threads() { return {nullptr, run_in_plugin, static_cast<size_t>(parallel_get_max_threads())}; }

void check(int status) {
    if (status != EDGEKIT_OK) OPENVINO_THROW("edgekit: ", edgekit_last_error());
}

const float* floats(const ov::Tensor& tensor) { return static_cast<const float*>(tensor.data()); }

int32_t activation_of(size_t fc1_outputs, int64_t hidden) {
    return static_cast<int64_t>(fc1_outputs) == 2 * hidden ? EDGEKIT_SWIGLU : EDGEKIT_GELU;
}

void check_rope(const ov::Node& node, size_t first, int64_t width, int64_t heads) {
    for (size_t i = first; i < node.get_input_size(); ++i) {
        const auto shape = node.get_input_partial_shape(i);
        NODE_VALIDATION_CHECK(&node, node.get_input_element_type(i).compatible(ov::element::f32) && shape.rank().compatible(2),
                              "has tables of rotary positions that are not float32 matrices");
        NODE_VALIDATION_CHECK(&node, shape.rank().is_dynamic() || (shape[1] * 2 * heads).compatible(width),
                              "has tables of rotary positions of shape ", shape, ", not (P, D / H / 2)");
    }
    if (node.get_input_size() > first + 1)
        NODE_VALIDATION_CHECK(&node, node.get_input_partial_shape(first).compatible(node.get_input_partial_shape(first + 1)),
                              "has a cosine and a sine of different shapes");
}

// An ONNX file leaves out an optional input before others by an empty name, which the frontend makes a null node of.
void drop_absent(ov::Node& node) {
    ov::OutputVector inputs;
    for (const auto& input : node.input_values())
        if (input.get_node()->get_type_info().name != std::string("NullNode")) inputs.push_back(input);
    if (inputs.size() < node.get_input_size()) node.set_arguments(inputs);
}

// The tables of rotary positions, (P, D / H / 2) each, at inputs `first` and `first` + 1 where there are so many.
struct RopeTables {
    edgekit_rope rope{};
    bool present = false;
    RopeTables(const ov::TensorVector& inputs, size_t first) {
        if (inputs.size() < first + 2) return;
        rope = {floats(inputs[first]), floats(inputs[first + 1]), static_cast<int64_t>(inputs[first].get_shape()[0])};
        present = true;
    }
    const edgekit_rope* view() const { return present ? &rope : nullptr; }
};

}  // namespace

// qkv (B, N, 3 * D) -> (B, N, D); see edgekit/native/reference.py
class FusedQKVAttention : public ov::op::Op {
public:
    OPENVINO_OP("FusedQKVAttention", "edgekit");

    FusedQKVAttention() = default;
    FusedQKVAttention(const ov::OutputVector& inputs, int64_t heads, float scale, std::string mode)
        : Op(inputs), heads_(heads), scale_(scale), mode_(std::move(mode)) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == 1 || get_input_size() == 3,
                              "takes the packed projection and both tables of rotary positions or neither");
        NODE_VALIDATION_CHECK(this, get_input_element_type(0).compatible(ov::element::f32), "takes float32");
        NODE_VALIDATION_CHECK(this, mode() >= 0, "knows the modes f32, hybrid, u8 and i16, not ", mode_);
        NODE_VALIDATION_CHECK(this, heads_ > 0, "needs num_heads > 0");
        auto shape = get_input_partial_shape(0);
        NODE_VALIDATION_CHECK(this, shape.rank().compatible(3), "takes (batch, tokens, 3 * width)");
        if (shape.rank().is_static() && shape[2].is_static()) {
            const auto packed = shape[2].get_length();
            NODE_VALIDATION_CHECK(this, packed % (3 * heads_) == 0, packed, " channels are no q, k, v of ", heads_,
                                  " heads");
            shape[2] = packed / 3;
            check_rope(*this, 1, packed / 3, heads_);
        }
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<FusedQKVAttention>(inputs, heads_, scale_, mode_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("num_heads", heads_);
        visitor.on_attribute("scale", scale_);
        visitor.on_attribute("mode", mode_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        auto shape = inputs[0].get_shape();
        const auto width = static_cast<int64_t>(shape[2] / 3);
        shape[2] = static_cast<size_t>(width);
        outputs[0].set_shape(shape);
        const auto batch = static_cast<int64_t>(shape[0]), tokens = static_cast<int64_t>(shape[1]);
        auto* mixed = static_cast<float*>(outputs[0].data());
        const edgekit_threads pool = threads();
        const RopeTables rope(inputs, 1);
        check(edgekit_attention_run(floats(inputs[0]), mixed, batch, tokens, width, heads_, scale_, mode(), &pool, rope.view()));
        return true;
    }

private:
    int32_t mode() const {
        return mode_ == "f32" ? EDGEKIT_F32 : mode_ == "hybrid" ? EDGEKIT_HYBRID : mode_ == "u8" ? EDGEKIT_U8 : mode_ == "i16" ? EDGEKIT_I16 : -1;
    }

    int64_t heads_ = 0;
    float scale_ = 1.0f;
    std::string mode_ = "f32";
};

// A block whose constants are packed when it first runs.
class BlockOp : public ov::op::Op {
public:
    BlockOp() = default;
    explicit BlockOp(const ov::OutputVector& inputs) : Op(inputs) {}

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const auto& shape = inputs[0].get_shape();
        outputs[0].set_shape(shape);
        const edgekit_threads pool = threads();
        check(edgekit_block_run(packed(inputs), floats(inputs[0]), static_cast<float*>(outputs[0].data()),
                                static_cast<int64_t>(shape[0]), static_cast<int64_t>(shape[1]), &pool,
                                RopeTables(inputs, first_rope(inputs.size())).view()));
        return true;
    }

protected:
    virtual edgekit_block_spec spec_of(const ov::TensorVector& inputs) const = 0;
    virtual size_t first_rope(size_t inputs) const = 0;  // `inputs` or more: there is none

    // Types and shapes of the constants: wanted(D, F, outputs of fc1) are their shapes in order; D and F are read off the
    // first norm and off axis `inner` of fc2's weight. fc1 of SwiGLU has 2 * F outputs.
    template <class Wanted>
    void validate_block(int64_t heads, size_t fc1, size_t fc2, size_t inner, Wanted&& wanted) {
        NODE_VALIDATION_CHECK(this, heads > 0, "needs num_heads > 0");
        const auto shape = get_input_partial_shape(0);
        NODE_VALIDATION_CHECK(this, shape.rank().compatible(3), "takes (batch, tokens, width)");
        const auto norm = get_input_partial_shape(1), first = get_input_partial_shape(fc1), second = get_input_partial_shape(fc2);
        NODE_VALIDATION_CHECK(this, norm.is_static() && norm.size() == 1 && first.is_static() && first.size() == 2 &&
                              second.is_static() && second.size() == 2, "needs weights of known shape");
        const auto d = norm[0].get_length(), f = second[inner].get_length();
        const auto outputs = first[1 - inner].get_length() == 2 * f ? 2 * f : f;
        NODE_VALIDATION_CHECK(this, shape[2].compatible(d), "has a norm of ", d, " channels over ", shape[2]);
        const std::vector<ov::PartialShape> shapes = wanted(d, f, outputs);
        const size_t constants = std::min(first_rope(get_input_size()), get_input_size());
        for (size_t i = 1; i < constants; ++i) {
            const bool integer = shapes.size() == 18 && (i == 3 || i == 6 || i == 11 || i == 14);
            const ov::element::Type type = integer ? ov::element::i8 : ov::element::f32;
            NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(type),
                                  "has input ", i, " of type ", get_input_element_type(i));
            NODE_VALIDATION_CHECK(this, get_input_partial_shape(i).compatible(shapes[i]), "has input ", i, " of shape ",
                                  get_input_partial_shape(i), ", not ", shapes[i]);
        }
        check_rope(*this, first_rope(get_input_size()), d, heads);
        set_output_type(0, ov::element::f32, shape);
    }

private:
    using Block = std::unique_ptr<edgekit_block, void (*)(edgekit_block*)>;

    // The constants do not change, so neither does what is packed from them.
    const edgekit_block* packed(const ov::TensorVector& inputs) const {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!block_) {
            const edgekit_block_spec spec = spec_of(inputs);
            edgekit_block* made = nullptr;
            check(edgekit_block_create(&spec, &made));
            block_ = Block(made, edgekit_block_destroy);
        }
        return block_.get();
    }

    mutable std::mutex mutex_;
    mutable Block block_{nullptr, edgekit_block_destroy};
};

// x (B, N, D) and the block's integers -> (B, N, D).
class QViTBlock : public BlockOp {
public:
    OPENVINO_OP("QViTBlock", "edgekit");

    struct Attributes {
        int64_t heads = 0;
        float scale = 1.0f, epsilon = 1e-6f;
        std::string tier = "speed";
    };

    QViTBlock() = default;
    QViTBlock(const ov::OutputVector& inputs, Attributes attributes) : BlockOp(inputs), attributes_(std::move(attributes)) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto& a = attributes_;
        drop_absent(*this);
        NODE_VALIDATION_CHECK(this, get_input_size() >= 17 && get_input_size() <= 20, "has 17 to 20 inputs, not ",
                              get_input_size());
        NODE_VALIDATION_CHECK(this, a.tier == "speed" || a.tier == "quality", "knows the tiers speed and quality, not ",
                              a.tier);
        validate_block(a.heads, 11, 14, 1, [](int64_t d, int64_t f, int64_t outputs) {
            return std::vector<ov::PartialShape>{{}, {d}, {d}, {3 * d, d}, {3 * d}, {3 * d}, {d, d}, {d}, {d},
                                                 {d}, {d}, {outputs, d}, {outputs}, {outputs}, {d, f}, {d}, {d}, {f}};
        });
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<QViTBlock>(inputs, attributes_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("num_heads", attributes_.heads);
        visitor.on_attribute("scale", attributes_.scale);
        visitor.on_attribute("epsilon", attributes_.epsilon);
        visitor.on_attribute("tier", attributes_.tier);
        return true;
    }

protected:
    edgekit_block_spec spec_of(const ov::TensorVector& inputs) const override {
        const auto linear = [&](size_t i) {
            const auto* weight = static_cast<const int8_t*>(inputs[i].data());
            return edgekit_linear{weight, floats(inputs[i + 1]), floats(inputs[i + 2]), nullptr};
        };
        edgekit_block_spec spec{};
        spec.width = static_cast<int64_t>(inputs[1].get_shape()[0]);
        spec.hidden = static_cast<int64_t>(inputs[14].get_shape()[1]);
        spec.activation = activation_of(inputs[11].get_shape()[0], spec.hidden);
        spec.heads = attributes_.heads;
        spec.scale = attributes_.scale;
        spec.epsilon = attributes_.epsilon;
        spec.tier = attributes_.tier == "quality" ? EDGEKIT_QUALITY : EDGEKIT_SPEED;
        spec.attention = -1;
        spec.norm1_weight = floats(inputs[1]), spec.norm1_bias = floats(inputs[2]);
        spec.qkv = linear(3), spec.proj = linear(6);
        spec.norm2_weight = floats(inputs[9]), spec.norm2_bias = floats(inputs[10]);
        spec.fc1 = linear(11), spec.fc2 = linear(14);
        spec.fc2_gain = inputs.size() % 2 == 0 ? floats(inputs[17]) : nullptr;
        return spec;
    }

    // 17 constants, 18 with fc2_gain, then both tables or none.
    size_t first_rope(size_t inputs) const override { return inputs % 2 ? 17 : 18; }

private:
    Attributes attributes_;
};

// The same in float32; weights are matrices (in, out).
class ViTBlock : public BlockOp {
public:
    OPENVINO_OP("ViTBlock", "edgekit");

    ViTBlock() = default;
    ViTBlock(const ov::OutputVector& inputs, int64_t heads, float scale, float epsilon)
        : BlockOp(inputs), heads_(heads), scale_(scale), epsilon_(epsilon) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == 13 || get_input_size() == 15, "has 13 or 15 inputs, not ",
                              get_input_size());
        validate_block(heads_, 9, 11, 0, [](int64_t d, int64_t f, int64_t outputs) {
            return std::vector<ov::PartialShape>{{}, {d}, {d}, {d, 3 * d}, {3 * d}, {d, d}, {d}, {d}, {d},
                                                 {d, outputs}, {outputs}, {f, d}, {d}};
        });
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<ViTBlock>(inputs, heads_, scale_, epsilon_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("num_heads", heads_);
        visitor.on_attribute("scale", scale_);
        visitor.on_attribute("epsilon", epsilon_);
        return true;
    }

protected:
    edgekit_block_spec spec_of(const ov::TensorVector& inputs) const override {
        const auto linear = [&](size_t i) { return edgekit_linear{nullptr, nullptr, floats(inputs[i + 1]), floats(inputs[i])}; };
        edgekit_block_spec spec{};
        spec.width = static_cast<int64_t>(inputs[1].get_shape()[0]);
        spec.hidden = static_cast<int64_t>(inputs[11].get_shape()[0]);
        spec.activation = activation_of(inputs[9].get_shape()[1], spec.hidden);
        spec.heads = heads_, spec.scale = scale_, spec.epsilon = epsilon_;
        spec.tier = EDGEKIT_EXACT, spec.attention = -1;
        spec.norm1_weight = floats(inputs[1]), spec.norm1_bias = floats(inputs[2]);
        spec.qkv = linear(3), spec.proj = linear(5);
        spec.norm2_weight = floats(inputs[7]), spec.norm2_bias = floats(inputs[8]);
        spec.fc1 = linear(9), spec.fc2 = linear(11);
        return spec;
    }

    size_t first_rope(size_t) const override { return 13; }

private:
    int64_t heads_ = 0;
    float scale_ = 1.0f, epsilon_ = 1e-6f;
};

}  // namespace edgekit

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<edgekit::FusedQKVAttention>>(),
    std::make_shared<ov::frontend::onnx::OpExtension<edgekit::FusedQKVAttention>>("FusedQKVAttention", "edgekit"),
    std::make_shared<ov::OpExtension<edgekit::QViTBlock>>(),
    std::make_shared<ov::frontend::onnx::OpExtension<edgekit::QViTBlock>>("QViTBlock", "edgekit"),
    std::make_shared<ov::OpExtension<edgekit::ViTBlock>>(),
    std::make_shared<ov::frontend::onnx::OpExtension<edgekit::ViTBlock>>("ViTBlock", "edgekit"),
}));
