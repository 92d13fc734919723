// The part of ONNX Runtime's C ABI that a custom-op library meets, written down from its documented table:
// slots of the append-only function table by number, and the op structure of API version 18 (ONNX Runtime 1.18).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ort {

inline constexpr uint32_t api_version = 18;
inline constexpr int fail = 1, invalid_argument = 2;
inline constexpr int element_float = 1, element_int8 = 3;

struct Status;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct ShapeContext;
using Api = void (*const)(void);  // the table is an array of functions

struct ApiBase {
    const Api* (*get_api)(uint32_t version);
    const char* (*version)();
};

// One slot with its type: slot(api, ...) calls it.
template <size_t Index, class Result, class... Arguments>
struct Slot {
    Result operator()(const Api* api, Arguments... arguments) const {
        return reinterpret_cast<Result (*)(Arguments...)>(api[Index])(arguments...);
    }
};

inline constexpr Slot<0, Status*, int, const char*> create_status;
inline constexpr Slot<26, Status*, const char*, CustomOpDomain**> create_domain;
inline constexpr Slot<27, Status*, CustomOpDomain*, const void*> domain_add;
inline constexpr Slot<28, Status*, SessionOptions*, CustomOpDomain*> add_domain;
inline constexpr Slot<51, Status*, Value*, void**> tensor_data;
inline constexpr Slot<60, Status*, const TensorInfo*, int*> element_type;
inline constexpr Slot<61, Status*, const TensorInfo*, size_t*> dimension_count;
inline constexpr Slot<62, Status*, const TensorInfo*, int64_t*, size_t> dimensions;
inline constexpr Slot<65, Status*, const Value*, TensorInfo**> tensor_info;
inline constexpr Slot<85, Status*, const KernelInfo*, const char*, float*> attribute_float;
inline constexpr Slot<86, Status*, const KernelInfo*, const char*, int64_t*> attribute_int;
inline constexpr Slot<87, Status*, const KernelInfo*, const char*, char*, size_t*> attribute_string;
inline constexpr Slot<88, Status*, const KernelContext*, size_t*> input_count;
inline constexpr Slot<90, Status*, const KernelContext*, size_t, const Value**> input;
inline constexpr Slot<91, Status*, KernelContext*, size_t, const int64_t*, size_t, Value**> output;
inline constexpr Slot<93, void, Status*> release_status;
inline constexpr Slot<99, void, TensorInfo*> release_info;
inline constexpr Slot<249, Status*, const KernelInfo*, size_t, int*, const Value**> constant_input;
inline constexpr Slot<274, Status*, const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*> parallel_for;

// OrtCustomOp of version 18: 208 bytes on 64-bit machines.
struct CustomOp {
    uint32_t version;
    void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
    const char* (*name)(const CustomOp*);
    const char* (*provider)(const CustomOp*);
    int (*input_type)(const CustomOp*, size_t);
    size_t (*inputs)(const CustomOp*);
    int (*output_type)(const CustomOp*, size_t);
    size_t (*outputs)(const CustomOp*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    int (*input_characteristic)(const CustomOp*, size_t);  // 0 required, 1 optional
    int (*output_characteristic)(const CustomOp*, size_t);
    int (*input_memory)(const CustomOp*, size_t);
    int (*variadic_input_min)(const CustomOp*);
    int (*variadic_input_same)(const CustomOp*);
    int (*variadic_output_min)(const CustomOp*);
    int (*variadic_output_same)(const CustomOp*);
    Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
    Status* (*compute_v2)(void*, KernelContext*);
    Status* (*infer_shape)(const CustomOp*, ShapeContext*);
    int (*start_version)(const CustomOp*);
    int (*end_version)(const CustomOp*);
    size_t (*may_inplace)(int**, int**);
    void (*release_may_inplace)(int*, int*);
    size_t (*alias_map)(int**, int**);
    void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208);

}  // namespace ort
