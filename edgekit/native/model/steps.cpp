// The arithmetic of heads in float32: convolutions are products of unfolded places, in the kernels' GEMM.
#include "steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgekit {
namespace {

constexpr int64_t rows_at_once = 64;  // of unfolded places: with their weights they stay in L2

float gelu(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }
float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// Calls each(first, last) over parts of `count` places.
template <class Each>
void in_parts(int64_t count, const edgekit_threads* threads, Each&& each) {
    const int64_t parts = std::min<int64_t>(count, threads ? 16 : 1);
    auto task = [&](size_t i) { each(count * int64_t(i) / parts, count * int64_t(i + 1) / parts); };
    for_each(threads, size_t(parts), task);
}

// The places under the kernel at output place `place`, beside each other; zeros beyond the edges.
void unfold(const Step& step, const Value& from, const float* data, int64_t place, int columns, float* row) {
    const int top = int(place / columns) * step.stride - step.padding, left = int(place % columns) * step.stride - step.padding;
    const size_t bytes = size_t(from.channels) * sizeof(float);
    for (int y = top; y < top + step.kernel; ++y)
        for (int x = left; x < left + step.kernel; ++x, row += from.channels) {
            const bool inside = y >= 0 && y < from.grid.rows && x >= 0 && x < from.grid.columns;
            if (inside) std::memcpy(row, data + (int64_t(y) * from.grid.columns + x) * from.channels, bytes);
            else std::memset(row, 0, bytes);
        }
}

// One row of sums to its place: bias, ReLU, and shuffle^2 channels as one place each.
void fold(const Step& step, const float* sums, int64_t place, int columns, const Value& to, float* out) {
    const int s = step.shuffle, y = int(place / columns) * s, x = int(place % columns) * s;
    const float* bias = step.linear.view.bias;
    for (int i = 0; i < s; ++i)
        for (int j = 0; j < s; ++j) {
            float* at = out + (int64_t(y + i) * to.grid.columns + x + j) * to.channels;
            for (int c = 0; c < to.channels; ++c) {
                const int k = (c * s + i) * s + j;
                const float sum = sums[k] + bias[k];
                at[c] = step.relu && !(sum > 0) ? (sum != sum ? sum : 0) : sum;
            }
        }
}

bool convolve(const Step& step, const Operand& in, const Value& value, float* out, const edgekit_threads* threads, Slots* slots) {
    const Linear& linear = step.linear.view;
    const bool vector = value.kind == Value::Kind::vector;
    const int columns = vector ? 1 : value.grid.columns / step.shuffle;
    const int64_t places = vector ? 1 : value.places / (step.shuffle * step.shuffle), tasks = (places + rows_at_once - 1) / rows_at_once;
    std::atomic<bool> enough{true};
    auto task = [&](size_t t) {
        const int64_t first = int64_t(t) * rows_at_once, rows = std::min(rows_at_once, places - first);
        const Scratch scratch(slots, task_bytes(step));
        if (!scratch.data()) { enough = false; return; }
        float* sums = reinterpret_cast<float*>(scratch.data() + rounded(linear.row_stride() * rows_at_once, 64));
        for (int64_t r = 0; r < rows; ++r) {
            float* row = reinterpret_cast<float*>(scratch.data() + size_t(r) * linear.row_stride());
            if (vector) std::copy_n(in.data, linear.in, row);
            else unfold(step, *in.value, in.data, first + r, columns, row);
        }
        active_kernels().gemm(linear, scratch.data(), sums, int(rows));
        for (int64_t r = 0; r < rows; ++r, sums += linear.padded_out()) fold(step, sums, first + r, columns, value, out);
    };
    for_each(threads, size_t(tasks), task);
    return enough;
}

// Where an output place falls between two input places.
struct Between {
    int low, high;
    float share;  // of the higher one
    Between(int i, int from, int to, bool aligned) {
        const float scale = aligned ? (to > 1 ? float(from - 1) / float(to - 1) : 0) : float(from) / float(to);
        const float place = aligned ? scale * float(i) : std::max(0.0f, scale * (float(i) + 0.5f) - 0.5f);
        low = std::min(int(place), from - 1), high = std::min(low + 1, from - 1), share = place - float(low);
    }
};

void resize(const Step& step, const Operand& in, const Value& value, float* out, const edgekit_threads* threads) {
    const Grid from = in.value->grid, to = value.grid;
    const int n = value.channels;
    in_parts(to.rows, threads, [&](int64_t first, int64_t last) {
        for (int y = int(first); y < int(last); ++y) {
            const Between row(y, from.rows, to.rows, step.aligned);
            for (int x = 0; x < to.columns; ++x) {
                const Between column(x, from.columns, to.columns, step.aligned);
                const auto at = [&](int r, int c) { return in.data + (int64_t(r) * from.columns + c) * n; };
                const float *a = at(row.low, column.low), *b = at(row.low, column.high), *c = at(row.high, column.low), *d = at(row.high, column.high);
                float* place = out + (int64_t(y) * to.columns + x) * n;
                for (int i = 0; i < n; ++i) {
                    const float above = a[i] + (b[i] - a[i]) * column.share, below = c[i] + (d[i] - c[i]) * column.share;
                    place[i] = above + (below - above) * row.share;
                }
            }
        }
    });
}

template <class Each>
void each_value(const Operand& in, float* out, const edgekit_threads* threads, Each&& each) {
    in_parts(in.value->count(), threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) out[i] = each(in.data[i], i);
    });
}

void activate(Function function, const Operand& in, float* out, const edgekit_threads* threads) {
    switch (function) {
        case Function::relu: return each_value(in, out, threads, [](float x, int64_t) { return x < 0 ? 0 : x; });
        case Function::gelu: return each_value(in, out, threads, [](float x, int64_t) { return gelu(x); });
        case Function::sigmoid: return each_value(in, out, threads, [](float x, int64_t) { return sigmoid(x); });
    }
}

void concatenate(const std::vector<Operand>& inputs, const Value& value, float* out) {
    int first = 0;
    for (const Operand& in : inputs) {
        const int n = in.value->channels;
        for (int64_t p = 0; p < value.places; ++p) std::copy_n(in.data + p * n, n, out + p * value.channels + first);
        first += n;
    }
}

void average_patches(const Operand& in, int first_patch, float* out) {
    const int n = in.value->channels;
    std::vector<double> sums(size_t(n), 0.0);
    for (int64_t t = first_patch; t < in.value->places; ++t)
        for (int c = 0; c < n; ++c) sums[size_t(c)] += in.data[t * n + c];
    for (int c = 0; c < n; ++c) out[c] = float(sums[size_t(c)] / double(in.value->places - first_patch));
}

void softmax(const Operand& in, float* out) {
    const int n = in.value->channels;
    float top = in.data[0];
    for (int i = 1; i < n; ++i) top = std::max(top, in.data[i]);
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += out[i] = std::exp(in.data[i] - top);
    for (int i = 0; i < n; ++i) out[i] = float(out[i] / sum);
}

void normalize(const Operand& in, float* out) {
    double squares = 0;
    for (int i = 0; i < in.value->channels; ++i) squares += double(in.data[i]) * in.data[i];
    for (int i = 0; i < in.value->channels; ++i) out[i] = float(in.data[i] / std::sqrt(squares));
}

}  // namespace

size_t task_bytes(const Step& step) {
    if (step.op != Op::conv && step.op != Op::linear) return 0;
    const Linear& linear = step.linear.view;
    return rounded(linear.row_stride() * rows_at_once, 64) + size_t(rows_at_once) * linear.padded_out() * sizeof(float);
}

bool run_step(const Step& step, const std::vector<Operand>& inputs, const Value& value, float* out, int first_patch,
              const edgekit_threads* threads, Slots* slots) {
    const Operand& a = inputs[0];
    const float* b = inputs.size() > 1 ? inputs[1].data : nullptr;
    switch (step.op) {
        case Op::layer:
        case Op::hidden: break;  // copied by the program
        case Op::class_token: std::copy_n(a.data, value.channels, out); break;
        case Op::mean_patch: average_patches(a, first_patch, out); break;
        case Op::patch_map: std::copy_n(a.data + int64_t(first_patch) * value.channels, value.count(), out); break;
        case Op::concat: concatenate(inputs, value, out); break;
        case Op::linear:
        case Op::conv: return convolve(step, a, value, out, threads, slots);
        case Op::resize: resize(step, a, value, out, threads); break;
        case Op::add: each_value(a, out, threads, [b](float x, int64_t i) { return x + b[i]; }); break;
        case Op::divide: each_value(a, out, threads, [b](float x, int64_t i) { return x / b[i]; }); break;
        case Op::add_channelwise: each_value(a, out, threads, [b, n = value.channels](float x, int64_t i) { return x + b[i % n]; }); break;
        case Op::layer_norm: step.norm.run(a.data, out, int(value.places)); break;
        case Op::softmax: softmax(a, out); break;
        case Op::l2_normalize: normalize(a, out); break;
        case Op::activate: activate(step.function, a, out, threads); break;
        case Op::add_scalar: each_value(a, out, threads, [v = step.value](float x, int64_t) { return x + v; }); break;
    }
    return true;
}

}  // namespace edgekit
