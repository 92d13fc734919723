// QViTBlock: x (B, N, D) -> (B, N, D); all other inputs are constants, packed when the session is made.

struct BlockOp {
    static constexpr const char* name = "QViTBlock";
    static constexpr size_t inputs = 18;
    static int input_type(size_t i) {
        return i == 3 || i == 6 || i == 11 || i == 14 ? ort::element_int8 : ort::element_float;
    }
    static bool optional(size_t i) { return i == 17; }

    const Api* api;
    int64_t width = 0;
    bool has_gain = false;
    std::unique_ptr<edgekit_block, void (*)(edgekit_block*)> block{nullptr, edgekit_block_destroy};

    BlockOp(const Api* a, const KernelInfo* info) : api(a) {
        edgekit_block_spec spec{};
        spec.heads = int_attribute(api, info, "num_heads");
        spec.scale = float_attribute(api, info, "scale");
        spec.epsilon = float_attribute(api, info, "epsilon");
        spec.tier = choice(string_attribute(api, info, "tier"), "tier", {"speed", "quality"});
        const int64_t bits = int_attribute(api, info, "weight_bits");
        if (bits != 7 && bits != 8) refuse("weight_bits " + std::to_string(bits) + " is neither 7 nor 8");
        spec.weight_bits = int32_t(bits);
        spec.attention = -1;
        const Tensor norm = constant(info, 1, "norm1_weight"), fc1 = constant(info, 11, "fc1_weight");
        if (norm.shape.size() != 1) refuse("norm1_weight has shape " + shown(norm.shape) + ", not (D,)");
        if (fc1.shape.size() != 2) refuse("fc1_weight has shape " + shown(fc1.shape) + ", not (F, D)");
        const int64_t d = norm.shape[0], f = fc1.shape[0];
        if (d < 1 || d > 1 << 14 || f < 1 || f > 1 << 16) refuse("width " + std::to_string(d) + " or hidden width " + std::to_string(f) + " is out of range");
        spec.width = width = d, spec.hidden = f;
        spec.norm1_weight = floats(info, 1, "norm1_weight", d), spec.norm1_bias = floats(info, 2, "norm1_bias", d);
        spec.norm2_weight = floats(info, 9, "norm2_weight", d), spec.norm2_bias = floats(info, 10, "norm2_bias", d);
        spec.qkv = linear(info, 3, "qkv", 3 * d, d);
        spec.proj = linear(info, 6, "proj", d, d);
        spec.fc1 = linear(info, 11, "fc1", f, d);
        spec.fc2 = linear(info, 14, "fc2", d, f);
        spec.fc2_gain = floats(info, 17, "fc2_gain", f);
        has_gain = spec.fc2_gain != nullptr;
        edgekit_block* made = nullptr;
        if (edgekit_block_create(&spec, &made) != EDGEKIT_OK) refuse(edgekit_last_error());
        block.reset(made);
    }

    void compute(KernelContext* context) const {
        const Tensor x = input_of(api, context, 0, "x");
        size_t count = 0;
        const ort::Value* gain = nullptr;
        check(ort::input_count(api, context, &count));
        if (count > 17) check(ort::input(api, context, 17, &gain));
        if (gain && !has_gain) refuse("input fc2_gain is not an initializer");
        if (x.shape.size() != 3 || x.shape[2] != width)
            refuse("x has shape " + shown(x.shape) + ", not (B, N, " + std::to_string(width) + ")");
        float* y = output_of(api, context, x.shape);
        Threads threads(api, context);
        threads.finish(edgekit_block_run(block.get(), static_cast<const float*>(x.data), y, x.shape[0], x.shape[1],
                                         &threads.view));
    }

private:
    // Not present: an optional input that is absent.
    Tensor constant(const KernelInfo* info, size_t index, const std::string& label) const {
        int is_constant = 0;
        const ort::Value* value = nullptr;
        if (Status* status = ort::constant_input(api, info, index, &is_constant, &value)) {
            ort::release_status(api, status);  // an index beyond the node's inputs
            is_constant = 0, value = nullptr;
        }
        if (!is_constant || !value) {
            if (optional(index)) return {};  // absent, or not constant: compute() tells them apart
            refuse("input " + label + " is not an initializer");
        }
        Tensor tensor = tensor_of(api, value);
        if (tensor.type != input_type(index)) refuse("input " + label + " has another element type");
        return tensor;
    }

    template <class Element>
    const Element* array(const KernelInfo* info, size_t index, const std::string& label, std::vector<int64_t> shape) const {
        const Tensor tensor = constant(info, index, label);
        if (!tensor.present) return nullptr;
        if (tensor.shape != shape) refuse("input " + label + " has shape " + shown(tensor.shape) + ", not " + shown(shape));
        return static_cast<const Element*>(tensor.data);
    }

    const float* floats(const KernelInfo* info, size_t index, const std::string& label, int64_t size) const {
        return array<float>(info, index, label, {size});
    }

    edgekit_linear linear(const KernelInfo* info, size_t first, const std::string& label, int64_t out, int64_t in) const {
        return {array<int8_t>(info, first, label + "_weight", {out, in}), floats(info, first + 1, label + "_scale", out),
                floats(info, first + 2, label + "_bias", out)};
    }
};
