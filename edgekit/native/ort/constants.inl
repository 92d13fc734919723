// The initializers of a node, checked, as the C interface takes them.

struct Sizes {
    int64_t width, hidden, fc1_outputs;
    int activation;
};

struct Constants {
    const Api* api;
    const KernelInfo* info;

    // Not present: an optional input that is absent, or not constant, which compute() tells apart.
    Tensor tensor(size_t index, const std::string& label, int type, bool optional = false) const {
        int is_constant = 0;
        const ort::Value* value = nullptr;
        if (Status* status = ort::constant_input(api, info, index, &is_constant, &value)) {
            ort::release_status(api, status);  // an index beyond the node's inputs
            is_constant = 0, value = nullptr;
        }
        if (!is_constant || !value) {
            if (optional) return {};
            refuse("input " + label + " is not an initializer");
        }
        Tensor tensor = tensor_of(api, value);
        if (tensor.type != type) refuse("input " + label + " has another element type");
        return tensor;
    }

    // width and hidden width from the first norm and the second layer of the feed-forward part, whose inputs are on axis `inputs`.
    // It is SwiGLU where fc1 has twice as many outputs, on its other axis.
    Sizes sizes(size_t norm1, size_t fc1, size_t fc2, int type, size_t inputs) const {
        const Tensor norm = tensor(norm1, "norm1_weight", ort::element_float);
        const Tensor first = tensor(fc1, "fc1_weight", type), second = tensor(fc2, "fc2_weight", type);
        if (norm.shape.size() != 1) refuse("norm1_weight has shape " + shown(norm.shape) + ", not (D,)");
        if (first.shape.size() != 2) refuse("fc1_weight has shape " + shown(first.shape) + ", not of rank 2");
        if (second.shape.size() != 2) refuse("fc2_weight has shape " + shown(second.shape) + ", not of rank 2");
        const int64_t d = norm.shape[0], f = second.shape[inputs];
        if (d < 1 || d > 1 << 14 || f < 1 || f > 1 << 16)
            refuse("width " + std::to_string(d) + " or hidden width " + std::to_string(f) + " is out of range");
        const bool gated = first.shape[1 - inputs] == 2 * f;
        return {d, f, gated ? 2 * f : f, gated ? EDGEKIT_SWIGLU : EDGEKIT_GELU};
    }

    const float* floats(size_t index, const std::string& label, std::vector<int64_t> shape, bool optional = false) const {
        return array<float>(index, label, std::move(shape), ort::element_float, optional);
    }
    const int8_t* bytes(size_t index, const std::string& label, std::vector<int64_t> shape) const {
        return array<int8_t>(index, label, std::move(shape), ort::element_int8, false);
    }

private:
    template <class Element>
    const Element* array(size_t index, const std::string& label, std::vector<int64_t> shape, int type, bool optional) const {
        const Tensor found = tensor(index, label, type, optional);
        if (!found.present) return nullptr;
        if (found.shape != shape) refuse("input " + label + " has shape " + shown(found.shape) + ", not " + shown(shape));
        return static_cast<const Element*>(found.data);
    }
};

using Block = std::unique_ptr<edgekit_block, void (*)(edgekit_block*)>;

Block packed(const edgekit_block_spec& spec) {
    edgekit_block* made = nullptr;
    if (edgekit_block_create(&spec, &made) != EDGEKIT_OK) refuse(edgekit_last_error());
    return {made, edgekit_block_destroy};
}

// x (B, N, width) through a packed block; the tables of rotary positions, if any, are at inputs `rope_input` and the next.
void run_block(const Api* api, KernelContext* context, const edgekit_block* block, int64_t width, int64_t heads, size_t rope_input) {
    const Tensor x = input_of(api, context, 0, "x");
    if (x.shape.size() != 3 || x.shape[2] != width)
        refuse("x has shape " + shown(x.shape) + ", not (B, N, " + std::to_string(width) + ")");
    const RopeInput rope(api, context, rope_input, width, heads);
    float* y = output_of(api, context, x.shape);
    Threads threads(api, context);
    threads.finish(edgekit_block_run(block, static_cast<const float*>(x.data), y, x.shape[0], x.shape[1], &threads.view, rope.view()));
}
