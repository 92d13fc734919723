// Ceiling of the dot instruction and speed of the GEMM kernel, for benchmarks/kernels.py.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <random>

#include "block.h"
#include "guard.h"
#include "workspace.h"

using namespace edgekit;

static Format format_of(int32_t tier) { return tier == EDGEKIT_EXACT ? Format::f32 : active_kernels().formats[tier]; }

static bool is_tier(int32_t tier) { return tier == EDGEKIT_SPEED || tier == EDGEKIT_QUALITY || tier == EDGEKIT_EXACT; }

// Normally distributed with the largest at 4 standard deviations, as the weights of trained models nearly are.
static std::vector<int8_t> normal_integers(size_t count, int limit) {
    std::mt19937 draw(0);
    std::normal_distribution<float> normal(0, limit / 4.0f);
    std::vector<int8_t> integers(count);
    for (int8_t& integer : integers) integer = int8_t(std::clamp<int>(int(std::lrint(normal(draw))), -limit, limit));
    return integers;
}

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double edgekit_ceiling_gmacs(int32_t tier) {
    if (!is_tier(tier)) return refuse("tier " + std::to_string(tier) + " is not in 0..2"), 0;
    const Kernels& k = active_kernels();
    const Format format = format_of(tier);
    double best = 0;  // of many short windows: another process may take the core in some
    for (int i = 0; i < 200; ++i) {
        const double start = seconds(), macs = k.ceiling(format, 50000);
        const double rate = macs / (seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

static double gemm_gmacs(int32_t tier, int32_t weight_bits, int64_t rows, int64_t in, int64_t out) {
    const Kernels& k = active_kernels();
    const std::vector<int8_t> weight = normal_integers(in * out, (1 << (weight_bits - 1)) - 1);
    const std::vector<float> ones(out, 1), exact(tier == EDGEKIT_EXACT ? in * out : 0, 1);
    PackedLinear linear({weight.data(), ones.data(), ones.data(), exact.data()}, int(in), int(out), format_of(tier));
    const Memory memory(linear.bytes());
    linear.pack(tier == EDGEKIT_QUALITY, nullptr, memory.data());
    const size_t given = rounded(rows, k.row_multiple) * linear.view.row_stride();
    Workspace x(given), y(rows * linear.view.padded_out() * sizeof(float));
    if (!x.data() || !y.data()) return refuse("out of memory"), 0;
    std::fill_n(x.data(), given, char(1));
    double best = 0;
    for (const double end = seconds() + 0.3; seconds() < end;) {
        const double start = seconds();
        k.gemm(linear.view, x.data(), reinterpret_cast<float*>(y.data()), int(rows));
        const double rate = double(rows) * in * out / (seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

double edgekit_gemm_gmacs(int32_t tier, int32_t weight_bits, int64_t rows, int64_t in, int64_t out) try {
    if (!is_tier(tier)) return refuse("tier " + std::to_string(tier) + " is not in 0..2"), 0;
    if (weight_bits < 2 || weight_bits > 8) return refuse(std::to_string(weight_bits) + " bits are not in 2..8"), 0;
    for (int64_t size : {rows, in, out})
        if (size < 1 || size > 65536) return refuse("size " + std::to_string(size) + " is not in 1..65536"), 0;
    return gemm_gmacs(tier, weight_bits, rows, in, out);
} catch (const std::bad_alloc&) {
    return refuse("out of memory"), 0;
}
