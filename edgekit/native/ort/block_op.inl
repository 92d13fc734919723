// QViTBlock: x (B, N, D) -> (B, N, D); all other inputs but rope_cos and rope_sin are constants, packed when the session is made.

struct BlockOp {
    static constexpr const char* name = "QViTBlock";
    static constexpr size_t inputs = 20;
    static int input_type(size_t i) {
        return i == 3 || i == 6 || i == 11 || i == 14 ? ort::element_int8 : ort::element_float;
    }
    static bool optional(size_t i) { return i >= 17; }

    const Api* api;
    int64_t width = 0, heads = 0;
    bool has_gain = false;
    Block block{nullptr, edgekit_block_destroy};

    BlockOp(const Api* a, const KernelInfo* info) : api(a) {
        const Constants constants{api, info};
        edgekit_block_spec spec{};
        spec.heads = heads = int_attribute(api, info, "num_heads");
        spec.scale = float_attribute(api, info, "scale");
        spec.epsilon = float_attribute(api, info, "epsilon");
        spec.tier = choice(string_attribute(api, info, "tier"), "tier", {"speed", "quality"});
        spec.attention = -1;
        const auto [d, f, outputs, activation] = constants.sizes(1, 11, 14, ort::element_int8, 1);
        const auto linear = [&](size_t first, const std::string& label, int64_t out, int64_t in) {
            return edgekit_linear{constants.bytes(first, label + "_weight", {out, in}),
                                  constants.floats(first + 1, label + "_scale", {out}),
                                  constants.floats(first + 2, label + "_bias", {out}), nullptr};
        };
        spec.width = width = d, spec.hidden = f, spec.activation = activation;
        spec.norm1_weight = constants.floats(1, "norm1_weight", {d}), spec.norm1_bias = constants.floats(2, "norm1_bias", {d});
        spec.qkv = linear(3, "qkv", 3 * d, d);
        spec.proj = linear(6, "proj", d, d);
        spec.norm2_weight = constants.floats(9, "norm2_weight", {d}), spec.norm2_bias = constants.floats(10, "norm2_bias", {d});
        spec.fc1 = linear(11, "fc1", outputs, d);
        spec.fc2 = linear(14, "fc2", d, f);
        spec.fc2_gain = constants.floats(17, "fc2_gain", {f}, true);
        has_gain = spec.fc2_gain != nullptr;
        block = packed(spec);
    }

    void compute(KernelContext* context) const {
        size_t count = 0;
        const ort::Value* gain = nullptr;
        check(ort::input_count(api, context, &count));
        if (count > 17) check(ort::input(api, context, 17, &gain));
        if (gain && !has_gain) refuse("input fc2_gain is not an initializer");
        run_block(api, context, block.get(), width, heads, 18);
    }
};

// ViTBlock: the same in float32; weights are matrices (in, out), as MatMul takes them.
struct FloatBlockOp {
    static constexpr const char* name = "ViTBlock";
    static constexpr size_t inputs = 15;
    static int input_type(size_t) { return ort::element_float; }
    static bool optional(size_t i) { return i >= 13; }

    const Api* api;
    int64_t width = 0, heads = 0;
    Block block{nullptr, edgekit_block_destroy};

    FloatBlockOp(const Api* a, const KernelInfo* info) : api(a) {
        const Constants constants{api, info};
        edgekit_block_spec spec{};
        spec.heads = heads = int_attribute(api, info, "num_heads");
        spec.scale = float_attribute(api, info, "scale");
        spec.epsilon = float_attribute(api, info, "epsilon");
        spec.tier = EDGEKIT_EXACT;
        spec.attention = -1;
        const auto [d, f, outputs, activation] = constants.sizes(1, 9, 11, ort::element_float, 0);
        const auto linear = [&](size_t first, const std::string& label, int64_t out, int64_t in) {
            return edgekit_linear{nullptr, nullptr, constants.floats(first + 1, label + "_bias", {out}),
                                  constants.floats(first, label + "_weight", {in, out})};
        };
        spec.width = width = d, spec.hidden = f, spec.activation = activation;
        spec.norm1_weight = constants.floats(1, "norm1_weight", {d}), spec.norm1_bias = constants.floats(2, "norm1_bias", {d});
        spec.qkv = linear(3, "qkv", 3 * d, d);
        spec.proj = linear(5, "proj", d, d);
        spec.norm2_weight = constants.floats(7, "norm2_weight", {d}), spec.norm2_bias = constants.floats(8, "norm2_bias", {d});
        spec.fc1 = linear(9, "fc1", outputs, d);
        spec.fc2 = linear(11, "fc2", d, f);
        block = packed(spec);
    }

    void compute(KernelContext* context) const { run_block(api, context, block.get(), width, heads, 13); }
};
