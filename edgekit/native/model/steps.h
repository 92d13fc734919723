// The steps that heads are made of.
#pragma once

#include <string_view>
#include <vector>

#include "network.h"
#include "program.h"
#include "tasks.h"

namespace edgekit {

enum class Op { layer, hidden, class_token, mean_patch, patch_map, concat, linear, conv, resize, add, divide, add_channelwise, layer_norm,
                softmax, l2_normalize, activate, add_scalar };
// As the file names them, in the order of Op.
inline const std::vector<std::string_view> op_names = {"layer", "hidden", "class_token", "mean_patch", "patch_map", "concat", "linear", "conv",
    "resize", "add", "divide", "add_channelwise", "layer_norm", "softmax", "l2_normalize", "activate", "add_scalar"};
enum class Function { relu, gelu, sigmoid };

inline bool is_binary(Op op) { return op == Op::add || op == Op::divide || op == Op::add_channelwise; }

struct Step {
    Op op = Op::hidden;
    std::vector<int> inputs;
    FloatLinear linear;  // of linear and conv
    int in = 0;          // channels that it takes
    int layer = 0;       // index in Program::blocks()
    int kernel = 1, stride = 1, padding = 0, shuffle = 1;
    bool relu = false, aligned = false;
    Function function = Function::relu;
    float value = 0;
    Grid size;
    LayerNorm norm;
};

struct Operand {
    const Value* value;
    const float* data;
};

// Scratch memory that one task of a step needs.
size_t task_bytes(const Step& step);
// Makes `value` at `out` of the inputs, which it overlaps with none of. False when memory is short.
bool run_step(const Step& step, const std::vector<Operand>& inputs, const Value& value, float* out, int first_patch,
              const edgekit_threads* threads, Slots* slots);

}  // namespace edgekit
