// Reads the steps of a head, and says what each value of a run will be.
#include "program.h"

#include <algorithm>

#include "network.h"
#include "steps.h"

namespace edgekit {

static constexpr int64_t most_steps = 512, most_channels = 1 << 20, most_kernel = 64, most_grid = 1 << 14;
static constexpr uint64_t most_bytes = uint64_t{1} << 36;  // of the values of one run

Program::Program() = default;
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;

// The float weights of a layer: those of the file, or its bytes times their scales; (out, rest).
static std::vector<float> weights_of(const std::string& name, const std::vector<int64_t>& shape, Reader& reader) {
    int64_t count = 1;
    for (int64_t side : shape) count *= side;
    if (!reader.is_integer(name + ".weight")) {
        const float* values = reader.floats(name + ".weight", shape);
        return values ? std::vector<float>(values, values + count) : std::vector<float>{};
    }
    const int8_t* bytes = reader.bytes(name + ".weight", shape);
    const float* scale = reader.floats(name + ".scale", {shape[0]});
    std::vector<float> values;
    if (!bytes || !scale) return values;
    values.resize(size_t(count));
    for (int64_t i = 0; i < count; ++i) values[size_t(i)] = float(bytes[i]) * scale[i / (count / shape[0])];
    return values;
}

// A layer (out, in, kernel, kernel) or (out, in): its rows meet kernel * kernel places of `in` channels each.
static void read_layer(Step& step, const std::string& name, Reader& reader) {
    const std::vector<int64_t> shape = reader.shape_of(name + ".weight");
    const size_t sides = step.op == Op::conv ? 4 : 2;
    const bool square = sides == 2 || (shape.size() == 4 && shape[2] == step.kernel && shape[3] == step.kernel);
    const auto fits = [](int64_t side) { return side >= 1 && side <= most_channels; };
    if (shape.size() != sides || !square || !std::all_of(shape.begin(), shape.end(), fits)) return reader.refuse("tensor '" + name + ".weight' has another shape");
    const int64_t out = shape[0], in = shape[1], spots = sides == 4 ? shape[2] * shape[3] : 1;
    if (in * spots > most_channels * 16) return reader.refuse("tensor '" + name + ".weight' has too many inputs");
    const float* bias = reader.floats(name + ".bias", {out});
    const std::vector<float> weights = weights_of(name, shape, reader);
    if (!reader.sound()) return;
    std::vector<float> matrix(weights.size());
    for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i)
            for (int64_t s = 0; s < spots; ++s) matrix[size_t((s * in + i) * out + o)] = weights[size_t((o * in + i) * spots + s)];
    step.in = int(in);
    step.linear.pack(matrix.data(), bias, int(in * spots), int(out));
}

void Program::read_step(const Json& json, size_t index, int depth, float epsilon, Reader& reader) {
    Step& step = steps_.emplace_back();
    Fields fields(&json, "heads." + name_ + "." + std::to_string(index), reader);
    step.op = Op(fields.choice("op", op_names));
    for (int64_t input : fields.wholes("inputs", 0, 0, std::max<int64_t>(0, int64_t(index) - 1))) step.inputs.push_back(int(input));
    const size_t takes = step.op == Op::layer || step.op == Op::hidden ? 0 : is_binary(step.op) ? 2 : 1;
    const bool right = step.op == Op::concat ? !step.inputs.empty() : step.inputs.size() == takes;
    if (!right || (index == 0 && takes)) reader.refuse("step " + std::to_string(index) + " of head '" + name_ + "' has other inputs");
    const std::string name = "heads." + name_ + "." + std::to_string(index);
    switch (step.op) {
        case Op::layer: {
            const int block = int(fields.whole("block", 0, depth - 1));
            const auto found = std::find(blocks_.begin(), blocks_.end(), block);
            step.layer = int(found - blocks_.begin());
            if (found == blocks_.end()) blocks_.push_back(block);
            break;
        }
        case Op::conv:
            step.kernel = int(fields.whole("kernel", 1, most_kernel)), step.stride = int(fields.whole("stride", 1, most_kernel));
            step.padding = int(fields.whole("padding", 0, most_kernel)), step.shuffle = int(fields.whole("shuffle", 1, most_kernel));
            step.relu = fields.whole("relu", 0, 1) == 1;
            [[fallthrough]];
        case Op::linear: read_layer(step, name, reader); break;
        case Op::activate: step.function = Function(fields.choice("function", {"relu", "gelu", "sigmoid"})); break;
        case Op::add_scalar: step.value = float(fields.number("value", -1e30, 1e30)); break;
        case Op::resize: {
            const std::vector<int64_t> size = fields.wholes("size", 2, 1, most_grid);
            step.size = {int(size[0]), int(size[1])};
            step.aligned = fields.choice("corners", {"aligned", "free"}) == 0;
            break;
        }
        case Op::layer_norm: {
            const std::vector<int64_t> shape = reader.shape_of(name + ".weight");
            const float *weight = reader.floats(name + ".weight", shape), *bias = reader.floats(name + ".bias", shape);
            if (shape.size() != 1 || !reader.sound()) return reader.refuse("tensor '" + name + ".weight' has another shape");
            step.norm = {{weight, weight + shape[0]}, {bias, bias + shape[0]}, epsilon};
            break;
        }
        default: break;
    }
}

void Program::read(const Json& head, int width, int depth, float epsilon, Reader& reader) {
    Fields fields(&head, "heads", reader);
    name_ = fields.text("name");
    if (name_.empty() || name_.size() > 100) reader.refuse("a head has no name");
    rank_ = int(fields.whole("rank", 1, 3));
    const std::vector<int64_t> grid = fields.wholes("grid", 2, 1, most_grid);
    built_for_ = {int(grid[0]), int(grid[1])};
    const Json* steps = fields.list("steps");
    if (steps && (steps->items().empty() || int64_t(steps->items().size()) > most_steps)) reader.refuse("head '" + name_ + "' has no steps, or too many");
    for (size_t i = 0; steps && reader.sound() && i < steps->items().size(); ++i) read_step(steps->items()[i], i, depth, epsilon, reader);
    if (!reader.sound()) return;
    ProgramPlan unused;
    if (std::string problem = plan(built_for_, 1, width, unused); !problem.empty()) reader.refuse(problem);
}

std::string Program::shape_of(size_t index, Grid grid, int first_patch, int width, std::vector<Value>& values) const {
    const Step& step = steps_[index];
    Value value;
    const Value none, &a = step.inputs.empty() ? none : values[size_t(step.inputs[0])], &b = step.inputs.size() < 2 ? none : values[size_t(step.inputs[1])];
    const auto is = [](const Value& v, Value::Kind kind) { return v.kind == kind; };
    bool fits = true;
    value = a;
    switch (step.op) {
        case Op::layer:
        case Op::hidden: value = {Value::Kind::tokens, width, {}, first_patch + grid.patches(), 0}; break;
        case Op::class_token:
        case Op::mean_patch: fits = is(a, Value::Kind::tokens), value = {Value::Kind::vector, a.channels, {}, 1, 0}; break;
        case Op::patch_map: fits = is(a, Value::Kind::tokens), value = {Value::Kind::map, a.channels, grid, grid.patches(), 0}; break;
        case Op::concat: {
            int64_t channels = 0;
            for (int i : step.inputs) {
                fits = fits && values[size_t(i)].kind == a.kind && values[size_t(i)].grid == a.grid && a.kind != Value::Kind::tokens;
                channels += values[size_t(i)].channels;
            }
            fits = fits && channels <= most_channels, value.channels = fits ? int(channels) : 1;
            break;
        }
        case Op::linear: fits = is(a, Value::Kind::vector) && a.channels == step.in, value.channels = step.linear.view.out; break;
        case Op::conv: {
            const auto side = [&](int from) { return (from + 2 * step.padding - step.kernel) / step.stride + 1; };
            const int each = step.shuffle * step.shuffle, out = step.linear.view.out;
            fits = is(a, Value::Kind::map) && a.channels == step.in && out % each == 0;
            fits = fits && a.grid.rows + 2 * step.padding >= step.kernel && a.grid.columns + 2 * step.padding >= step.kernel;
            if (!fits) break;
            value.channels = out / each, value.grid = {side(a.grid.rows) * step.shuffle, side(a.grid.columns) * step.shuffle};
            break;
        }
        case Op::resize:
            fits = is(a, Value::Kind::map), value.grid = step.size;
            if (!(grid == built_for_)) return "head '" + name_ + "' resizes maps and runs only on the size that it was built for";
            break;
        case Op::add:
        case Op::divide: fits = a.kind == b.kind && a.channels == b.channels && a.places == b.places && a.grid == b.grid; break;
        case Op::add_channelwise: fits = is(a, Value::Kind::map) && is(b, Value::Kind::vector) && a.channels == b.channels; break;
        case Op::layer_norm: fits = a.channels == int(step.norm.weight.size()); break;
        case Op::softmax:
        case Op::l2_normalize: fits = is(a, Value::Kind::vector); break;
        case Op::activate:
        case Op::add_scalar: break;
    }
    if (value.kind == Value::Kind::map) value.places = value.grid.patches(), fits = fits && value.grid.rows <= most_grid && value.grid.columns <= most_grid;
    if (!fits) return "step " + std::to_string(index) + " of head '" + name_ + "' does not fit what it takes";
    values.push_back(value);
    return "";
}

// Puts a value where none of the living overlaps it, as low as it goes.
static void place(Value& value, std::vector<const Value*> living) {
    std::sort(living.begin(), living.end(), [](const Value* a, const Value* b) { return a->offset < b->offset; });
    for (const Value* other : living)
        if (value.offset + value.bytes() > other->offset && other->offset + other->bytes() > value.offset) value.offset = rounded(other->offset + other->bytes(), 64);
}

std::string Program::plan(Grid grid, int first_patch, int width, ProgramPlan& plan) const {
    plan = {};
    plan.values.reserve(steps_.size());  // pointers to values stay good
    std::vector<size_t> last(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i)
        for (int input : steps_[i].inputs) last[size_t(input)] = i;
    last.back() = steps_.size();
    for (size_t i = 0; i < steps_.size(); ++i) {
        if (std::string problem = shape_of(i, grid, first_patch, width, plan.values); !problem.empty()) return problem;
        std::vector<const Value*> living;
        for (size_t j = 0; j < i; ++j)
            if (last[j] >= i) living.push_back(&plan.values[j]);
        place(plan.values[i], std::move(living));
        plan.bytes = std::max(plan.bytes, plan.values[i].offset + plan.values[i].bytes());
        plan.task = std::max(plan.task, task_bytes(steps_[i]));
        if (plan.bytes > most_bytes) return "head '" + name_ + "' needs more memory than 64 GiB";
    }
    const Value& end = plan.values.back();
    const bool fits = rank_ == 1 ? end.kind == Value::Kind::vector : end.kind == Value::Kind::map && (rank_ == 3 || end.channels == 1);
    return fits ? "" : "head '" + name_ + "' ends in no output of rank " + std::to_string(rank_);
}

bool Program::run(const ProgramPlan& plan, const std::vector<const float*>& layers, const float* hidden, int first_patch, char* memory, float* output,
                  const edgekit_threads* threads, Slots* slots) const {
    const auto at = [&](size_t i) { return reinterpret_cast<float*>(memory + plan.values[i].offset); };
    for (size_t i = 0; i < steps_.size(); ++i) {
        const Step& step = steps_[i];
        const Value& value = plan.values[i];
        if (step.op == Op::layer || step.op == Op::hidden) {
            std::copy_n(step.op == Op::hidden ? hidden : layers[size_t(step.layer)], value.count(), at(i));
            continue;
        }
        std::vector<Operand> inputs;
        for (int input : step.inputs) inputs.push_back({&plan.values[size_t(input)], at(size_t(input))});
        if (!run_step(step, inputs, value, at(i), first_patch, threads, slots)) return false;
    }
    const Value& end = plan.values.back();
    const float* from = at(steps_.size() - 1);
    for (int64_t p = 0; p < end.places; ++p)
        for (int c = 0; c < end.channels; ++c) output[c * end.places + p] = *from++;
    return true;
}

}  // namespace edgekit
