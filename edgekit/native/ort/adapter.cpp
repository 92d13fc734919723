// ONNX Runtime's custom ops of domain "edgekit", version 1: QViTBlock, ViTBlock and FusedQKVAttention.
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "edgekit_ops.h"
#include "ort_abi.h"

namespace {

using ort::Api;
using ort::CustomOp;
using ort::KernelContext;
using ort::KernelInfo;
using ort::Status;

// A problem on its way out as an OrtStatus; carries one that the runtime made, if it did.
struct Problem {
    Status* status = nullptr;
    std::string text;
};

void check(Status* status) {
    if (status) throw Problem{status, {}};
}

[[noreturn]] void refuse(const std::string& text) { throw Problem{nullptr, text}; }

// Runs `body`; no exception passes into the runtime.
template <class Body>
Status* guarded(const Api* api, const char* op, Body&& body) {
    try {
        body();
        return nullptr;
    } catch (const Problem& problem) {
        if (problem.status) return problem.status;
        return ort::create_status(api, ort::invalid_argument, (std::string(op) + ": " + problem.text).c_str());
    } catch (const std::bad_alloc&) {
        return ort::create_status(api, ort::fail, (std::string(op) + ": out of memory").c_str());
    } catch (const std::exception& error) {
        return ort::create_status(api, ort::fail, (std::string(op) + ": " + error.what()).c_str());
    }
}

struct Tensor {
    void* data = nullptr;
    int type = 0;
    std::vector<int64_t> shape;
    bool present = false;
};

std::string shown(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

Tensor tensor_of(const Api* api, const ort::Value* value) {
    Tensor tensor;
    tensor.present = true;
    ort::TensorInfo* info = nullptr;
    check(ort::tensor_info(api, value, &info));
    struct Release {
        const Api* api;
        ort::TensorInfo* info;
        ~Release() { ort::release_info(api, info); }
    } release{api, info};
    size_t rank = 0;
    check(ort::element_type(api, info, &tensor.type));
    check(ort::dimension_count(api, info, &rank));
    tensor.shape.resize(rank);
    check(ort::dimensions(api, info, tensor.shape.data(), rank));
    check(ort::tensor_data(api, const_cast<ort::Value*>(value), &tensor.data));
    return tensor;
}

template <class Value, class Read>
Value attribute(const Api* api, const KernelInfo* info, const char* name, Read read) {
    Value value{};
    if (Status* status = read(api, info, name, &value)) {
        ort::release_status(api, status);
        refuse(std::string("attribute ") + name + " is missing or of another type");
    }
    return value;
}

int64_t int_attribute(const Api* api, const KernelInfo* info, const char* name) {
    return attribute<int64_t>(api, info, name, ort::attribute_int);
}
float float_attribute(const Api* api, const KernelInfo* info, const char* name) {
    return attribute<float>(api, info, name, ort::attribute_float);
}
std::string string_attribute(const Api* api, const KernelInfo* info, const char* name) {
    char text[32] = {};
    size_t size = sizeof text;
    if (Status* status = ort::attribute_string(api, info, name, text, &size)) {
        ort::release_status(api, status);
        refuse(std::string("attribute ") + name + " is missing, of another type or too long");
    }
    return std::string(text, strnlen(text, sizeof text));
}

int choice(const std::string& value, const char* name, std::initializer_list<const char*> words) {
    int index = 0;
    std::string all;
    for (const char* word : words) {
        if (value == word) return index;
        all += (index++ ? ", " : "") + std::string(word);
    }
    refuse(std::string("attribute ") + name + " is \"" + value + "\", not one of " + all);
}

// The runtime's thread pool as the C interface wants it.
struct Threads {
    const Api* api;
    KernelContext* context;
    Status* status = nullptr;
    edgekit_threads view{this, [](void* self, void (*task)(void*, size_t), size_t count, void* argument) {
        auto* threads = static_cast<Threads*>(self);
        if (Status* status = ort::parallel_for(threads->api, threads->context, task, count, count, argument)) {
            if (threads->status) ort::release_status(threads->api, threads->status);
            threads->status = status;
        }
    }};
    Threads(const Api* a, KernelContext* c) : api(a), context(c) {}
    void finish(int code) {
        if (status) throw Problem{status, {}};
        if (code != EDGEKIT_OK) refuse(edgekit_last_error());
    }
};

Tensor input_of(const Api* api, const KernelContext* context, size_t index, const char* name) {
    const ort::Value* value = nullptr;
    check(ort::input(api, context, index, &value));
    if (!value) refuse(std::string("input ") + name + " is missing");
    Tensor tensor = tensor_of(api, value);
    if (tensor.type != ort::element_float) refuse(std::string("input ") + name + " is not float32");
    return tensor;
}

float* output_of(const Api* api, KernelContext* context, const std::vector<int64_t>& shape) {
    ort::Value* value = nullptr;
    void* data = nullptr;
    check(ort::output(api, context, 0, shape.data(), shape.size(), &value));
    check(ort::tensor_data(api, value, &data));
    return static_cast<float*>(data);
}

// The tables rope_cos and rope_sin (P, dim / 2) at inputs `first` and `first` + 1, where a node has them.
class RopeInput {
public:
    RopeInput(const Api* api, const KernelContext* context, size_t first, int64_t width, int64_t heads) {
        size_t count = 0;
        check(ort::input_count(api, context, &count));
        const ort::Value *cos = nullptr, *sin = nullptr;
        if (count > first) check(ort::input(api, context, first, &cos));
        if (count > first + 1) check(ort::input(api, context, first + 1, &sin));
        if (!cos && !sin) return;
        if (!cos || !sin) refuse("takes both rope_cos and rope_sin or neither");
        const Tensor a = input_of(api, context, first, "rope_cos"), b = input_of(api, context, first + 1, "rope_sin");
        if (a.shape.size() != 2 || width % (2 * heads) || a.shape[1] != width / (2 * heads) || a.shape != b.shape)
            refuse("rope_cos has shape " + shown(a.shape) + " and rope_sin " + shown(b.shape) + ", not (P, D / H / 2)");
        rope_ = {static_cast<const float*>(a.data), static_cast<const float*>(b.data), a.shape[0]};
        present_ = true;
    }
    const edgekit_rope* view() const { return present_ ? &rope_ : nullptr; }

private:
    edgekit_rope rope_{};
    bool present_ = false;
};

#include "attention_op.inl"
#include "constants.inl"
#include "block_op.inl"

template <class Op>
CustomOp describe() {
    CustomOp op{};
    op.version = ort::api_version;
    op.name = [](const CustomOp*) { return Op::name; };
    op.provider = [](const CustomOp*) -> const char* { return nullptr; };
    op.inputs = [](const CustomOp*) { return Op::inputs; };
    op.input_type = [](const CustomOp*, size_t i) { return Op::input_type(i); };
    op.input_characteristic = [](const CustomOp*, size_t i) { return Op::optional(i) ? 1 : 0; };
    op.outputs = [](const CustomOp*) { return size_t{1}; };
    op.output_type = [](const CustomOp*, size_t) { return ort::element_float; };
    op.output_characteristic = [](const CustomOp*, size_t) { return 0; };
    op.input_memory = [](const CustomOp*, size_t) { return 0; };
    op.variadic_input_min = op.variadic_input_same = op.variadic_output_min = op.variadic_output_same =
        [](const CustomOp*) { return 0; };
    op.start_version = [](const CustomOp*) { return 1; };
    op.end_version = [](const CustomOp*) { return 1; };
    op.create_kernel_v2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) {
        return guarded(api, Op::name, [&] { *kernel = new Op(api, info); });
    };
    op.compute_v2 = [](void* kernel, KernelContext* context) {
        auto* self = static_cast<Op*>(kernel);
        return guarded(self->api, Op::name, [&] { self->compute(context); });
    };
    op.destroy = [](void* kernel) { delete static_cast<Op*>(kernel); };
    return op;
}

}  // namespace

extern "C" EDGEKIT_API Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
    static const CustomOp known[] = {describe<AttentionOp>(), describe<BlockOp>(), describe<FloatBlockOp>()};
    const Api* api = base->get_api(ort::api_version);
    if (!api) {  // no table, no way to make a status of this version: the oldest table makes it
        api = base->get_api(1);
        return ort::create_status(api, ort::fail, "edgekit's ops need ONNX Runtime 1.18 or newer");
    }
    // One domain for the life of the process: sessions keep pointing at it.
    static ort::CustomOpDomain* domain = nullptr;
    static Status* const made = [&]() -> Status* {
        if (Status* status = ort::create_domain(api, "edgekit", &domain)) return status;
        for (const CustomOp& op : known)
            if (Status* status = ort::domain_add(api, domain, &op)) return status;
        return nullptr;
    }();
    if (made) return ort::create_status(api, ort::fail, "edgekit's ops could not be registered");
    return ort::add_domain(api, options, domain);
}
