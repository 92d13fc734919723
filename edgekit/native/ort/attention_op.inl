// FusedQKVAttention: qkv (B, N, 3 * D) or (N, 3 * D) -> the same with D; rope_cos and rope_sin (P, D / H / 2) if it is given them.

struct AttentionOp {
    static constexpr const char* name = "FusedQKVAttention";
    static constexpr size_t inputs = 3;
    static int input_type(size_t) { return ort::element_float; }
    static bool optional(size_t i) { return i > 0; }

    const Api* api;
    int64_t heads;
    float scale;
    int mode;

    AttentionOp(const Api* a, const KernelInfo* info)
        : api(a), heads(int_attribute(a, info, "num_heads")), scale(float_attribute(a, info, "scale")),
          mode(choice(string_attribute(a, info, "mode"), "mode", {"f32", "hybrid", "u8", "i16"})) {
        if (heads < 1 || heads > 1 << 10) refuse("num_heads " + std::to_string(heads) + " is not in 1..1024");
    }

    void compute(KernelContext* context) const {
        const Tensor qkv = input_of(api, context, 0, "qkv");
        std::vector<int64_t> shape = qkv.shape;
        if (shape.size() != 2 && shape.size() != 3) refuse("qkv has shape " + shown(shape) + ", not (B, N, 3 * D)");
        if (shape.back() <= 0 || shape.back() % 3) refuse("qkv has shape " + shown(shape) + ": the last axis is no multiple of 3");
        shape.back() /= 3;
        const int64_t batch = shape.size() == 3 ? shape[0] : 1, tokens = shape[shape.size() - 2];
        const RopeInput rope(api, context, 1, shape.back(), heads);
        float* out = output_of(api, context, shape);
        Threads threads(api, context);
        threads.finish(edgekit_attention_run(static_cast<const float*>(qkv.data), out, batch, tokens, shape.back(), heads,
                                             scale, mode, &threads.view, rope.view()));
    }
};
