// libFuzzer target: the custom ops of ONNX Runtime, in a runtime of this file's own that gives them whatever a model file can
// say: attributes and initializers that are missing, of another type or shape, and calls that fail.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "edgekit_ops.h"
#include "material.h"
#include "ort_abi.h"

namespace ort {

struct Status {
    std::string text;
};

struct Value {
    int type;
    std::vector<int64_t> shape;
    std::vector<char> data;  // exactly as long as the shape says
};

struct TensorInfo {
    const Value* value;
};

struct KernelInfo {
    std::map<std::string, std::variant<int64_t, float, std::string>> attributes;
    std::vector<const Value*> constants;  // null: not an initializer
};

struct KernelContext {
    std::vector<const Value*> inputs;  // null: absent
    std::vector<std::unique_ptr<Value>> outputs;
};

}  // namespace ort

extern "C" ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base);

namespace {

using ort::Status;
using ort::Value;

int calls_until_failure = -1;  // of the runtime; -1 is never

Status* failure(const char* text) { return new Status{text}; }
Status* due() { return calls_until_failure >= 0 && calls_until_failure-- == 0 ? failure("the runtime failed") : nullptr; }

Status* create_status(int, const char* text) { return failure(text); }
void release_status(Status* status) { delete status; }
Status* tensor_data(Value* value, void** data) {
    if (Status* status = due()) return status;
    *data = value->data.data();
    return nullptr;
}
Status* tensor_info(const Value* value, ort::TensorInfo** info) {
    if (Status* status = due()) return status;
    *info = new ort::TensorInfo{value};
    return nullptr;
}
void release_info(ort::TensorInfo* info) { delete info; }
Status* element_type(const ort::TensorInfo* info, int* type) {
    *type = info->value->type;
    return due();
}
Status* dimension_count(const ort::TensorInfo* info, size_t* count) {
    *count = info->value->shape.size();
    return due();
}
Status* dimensions(const ort::TensorInfo* info, int64_t* shape, size_t count) {
    std::copy_n(info->value->shape.begin(), std::min(count, info->value->shape.size()), shape);
    return due();
}

template <class Kind>
const Kind* attribute(const ort::KernelInfo* info, const char* name) {
    const auto found = info->attributes.find(name);
    return found == info->attributes.end() ? nullptr : std::get_if<Kind>(&found->second);
}
template <class Kind>
Status* number_attribute(const ort::KernelInfo* info, const char* name, Kind* value) {
    const Kind* found = attribute<Kind>(info, name);
    if (!found) return failure("no such attribute");
    *value = *found;
    return due();
}
Status* string_attribute(const ort::KernelInfo* info, const char* name, char* text, size_t* size) {
    const std::string* found = attribute<std::string>(info, name);
    if (!found) return failure("no such attribute");
    const size_t room = *size;
    *size = found->size() + 1;
    if (room < *size) return failure("the buffer is too small");
    memcpy(text, found->c_str(), *size);
    return due();
}
Status* input_count(const ort::KernelContext* context, size_t* count) {
    *count = context->inputs.size();
    return due();
}
Status* input(const ort::KernelContext* context, size_t index, const Value** value) {
    if (index >= context->inputs.size()) return failure("no such input");
    *value = context->inputs[index];
    return due();
}
Status* output(ort::KernelContext* context, size_t, const int64_t* shape, size_t rank, Value** value) {
    if (Status* status = due()) return status;
    int64_t count = 1;
    for (size_t i = 0; i < rank; ++i) count = shape[i] == 0 ? 0 : fuzz::product(count, shape[i]);
    context->outputs.emplace_back(new Value{ort::element_float, {shape, shape + rank}, std::vector<char>(count * sizeof(float))});
    *value = context->outputs.back().get();
    return nullptr;
}
Status* constant_input(const ort::KernelInfo* info, size_t index, int* is_constant, const Value** value) {
    if (index >= info->constants.size()) return failure("no such input");
    *value = info->constants[index];
    *is_constant = *value != nullptr;
    return due();
}
Status* parallel_for(const ort::KernelContext*, void (*task)(void*, size_t), size_t count, size_t, void* argument) {
    while (count) task(argument, --count);
    return due();
}

std::vector<const ort::CustomOp*> ops;
Status* create_domain(const char*, ort::CustomOpDomain** domain) {
    *domain = reinterpret_cast<ort::CustomOpDomain*>(&ops);
    return nullptr;
}
Status* domain_add(ort::CustomOpDomain*, const void* op) {
    ops.push_back(static_cast<const ort::CustomOp*>(op));
    return nullptr;
}
Status* add_domain(ort::SessionOptions*, ort::CustomOpDomain*) { return nullptr; }

void (*table[300])();

template <class Function>
void put(size_t slot, Function* function) {
    table[slot] = reinterpret_cast<void (*)()>(function);
}

const ort::Api* get_api(uint32_t) { return table; }

const ort::Api* registered() {
    put(0, create_status), put(26, create_domain), put(27, domain_add), put(28, add_domain), put(51, tensor_data);
    put(60, element_type), put(61, dimension_count), put(62, dimensions), put(65, tensor_info);
    put(85, number_attribute<float>), put(86, number_attribute<int64_t>), put(87, string_attribute);
    put(88, input_count), put(90, input), put(91, output), put(93, release_status), put(99, release_info);
    put(249, constant_input), put(274, parallel_for);
    static const ort::ApiBase base{get_api, nullptr};
    if (Status* status = RegisterCustomOps(nullptr, &base)) abort();
    return table;
}

// The inputs of one node, and what is wrong with some of them.
class Node {
public:
    ort::KernelInfo info;
    ort::KernelContext context;

    Node(FuzzedDataProvider& data, const std::string& op) : data_(data) {
        heads_ = data.ConsumeIntegralInRange<int64_t>(1, 3), width_ = heads_ * data.ConsumeIntegralInRange<int64_t>(1, 24);
        const int64_t d = width_, f = data.ConsumeIntegralInRange<int64_t>(1, 60), outputs = data.ConsumeBool() ? 2 * f : f;
        const int64_t batch = data.ConsumeIntegralInRange<int64_t>(0, 2), tokens = data.ConsumeIntegralInRange<int64_t>(0, 20);
        const bool integers = op == "QViTBlock", attention = op == "FusedQKVAttention";
        attributes(attention);
        input(false, {batch, tokens, attention ? 3 * d : d}, false);
        if (!attention) {
            norm(d);
            linear(integers, 3 * d, d), linear(integers, d, d);
            norm(d);
            linear(integers, outputs, d), linear(integers, d, f);
            if (integers) input(false, {f}, true, true);
        }
        const int64_t turned = data.ConsumeIntegralInRange<int64_t>(0, 20);
        if (data.ConsumeBool()) input(false, {turned, d / heads_ / 2}, false), input(false, {turned, d / heads_ / 2}, false);
    }

private:
    FuzzedDataProvider& data_;
    int64_t heads_, width_;
    std::vector<std::unique_ptr<Value>> kept_;

    void attributes(bool attention) {
        const char* words[] = {"speed", "quality", "f32", "hybrid", "u8", "i16", "bf16", "", "exact"};
        auto set = [&](const char* name, auto value) {
            if (!fuzz::rarely(data_, 32)) info.attributes[name] = value;
            else if (data_.ConsumeBool()) info.attributes[name] = std::string("another type");
        };
        set("num_heads", fuzz::rarely(data_) ? data_.PickValueInArray(fuzz::strange_sizes) : heads_);
        set("scale", fuzz::number(data_, 0.3f));
        set("epsilon", fuzz::number(data_, 1e-6f));
        set(attention ? "mode" : "tier", fuzz::rarely(data_) ? data_.ConsumeRandomLengthString(80) : std::string(data_.PickValueInArray(words)));
    }

    void norm(int64_t d) { input(false, {d}, true), input(false, {d}, true); }

    void linear(bool integers, int64_t out, int64_t in) {
        input(integers, integers ? std::vector<int64_t>{out, in} : std::vector<int64_t>{in, out}, true);
        if (integers) input(false, {out}, true);
        input(false, {out}, true);
    }

    void input(bool integers, std::vector<int64_t> shape, bool constant, bool optional = false) {
        if ((optional && data_.ConsumeBool()) || fuzz::rarely(data_, 96)) return add(nullptr, constant);
        if (fuzz::rarely(data_, 48)) change(shape);
        int type = integers ? ort::element_int8 : ort::element_float;
        if (fuzz::rarely(data_, 64)) type = data_.ConsumeIntegralInRange(-1, 20);
        int64_t count = 1;
        for (const int64_t side : shape) count = side == 0 ? 0 : fuzz::product(count, side);
        const int64_t bytes = type == ort::element_int8 ? 1 : 4;
        if (count < 0 || count > 1 << 20) count = 0, shape.push_back(0);  // no tensor of that size can be in memory
        kept_.emplace_back(new Value{type, shape, std::vector<char>(count * bytes)});
        fill(*kept_.back());
        add(kept_.back().get(), constant != fuzz::rarely(data_, 96));
    }

    void change(std::vector<int64_t>& shape) {
        switch (data_.ConsumeIntegralInRange(0, 4)) {
            case 0: shape.clear(); break;
            case 1: shape.push_back(1); break;
            case 2: std::swap(shape.front(), shape.back()); break;
            case 3: shape[data_.ConsumeIntegralInRange<size_t>(0, shape.size() - 1)] = data_.ConsumeIntegralInRange<int64_t>(0, 300); break;
            case 4: shape.front() = 0, shape.back() = data_.PickValueInArray({int64_t{0}, INT64_MAX, int64_t{1} << 62, int64_t{1} << 40}); break;
        }
    }

    void fill(Value& value) {
        uint32_t state = data_.ConsumeIntegral<uint16_t>();
        if (value.type == ort::element_int8) {
            for (char& byte : value.data) byte = char((state = state * 1664525u + 1013904223u) >> 24);
            return;
        }
        float* numbers = reinterpret_cast<float*>(value.data.data());
        const size_t count = value.data.size() / sizeof(float);
        for (size_t i = 0; i < count; ++i) numbers[i] = float(int32_t(state = state * 1664525u + 1013904223u)) / 2147483648.0f;
        if (count && fuzz::rarely(data_, 48)) numbers[data_.ConsumeIntegralInRange<size_t>(0, count - 1)] = data_.PickValueInArray(fuzz::strange_floats);
    }

    void add(const Value* value, bool constant) {
        info.constants.push_back(constant ? value : nullptr);
        context.inputs.push_back(value);
    }
};

bool succeeded(Status* status) {
    if (!status) return true;
    if (status->text.empty()) abort();
    delete status;
    return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    calls_until_failure = -1;
    static const ort::Api* const api = registered();
    FuzzedDataProvider data(bytes, size);
    const ort::CustomOp* op = ops[data.ConsumeIntegralInRange<size_t>(0, ops.size() - 1)];
    Node node(data, op->name(op));
    if (fuzz::rarely(data, 4)) calls_until_failure = data.ConsumeIntegralInRange(0, 200);
    void* kernel = nullptr;
    if (!succeeded(op->create_kernel_v2(op, api, &node.info, &kernel))) return 0;
    for (int i = data.ConsumeIntegralInRange(1, 2); i > 0; --i) succeeded(op->compute_v2(kernel, &node.context));
    op->destroy(kernel);
    return 0;
}
