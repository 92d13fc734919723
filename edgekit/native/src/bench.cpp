// Ceiling of the dot instruction and speed of the GEMM kernel, for benchmarks/kernels.py.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "block.h"
#include "workspace.h"

using namespace edgekit;

static Format format_of(int32_t tier) {
    return tier == EDGEKIT_EXACT ? Format::floats : active_kernels().format(tier == EDGEKIT_SPEED);
}

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

double edgekit_gemm_gmacs(int32_t tier, int32_t weight_bits, int64_t rows, int64_t in, int64_t out) {
    const Kernels& k = active_kernels();
    const std::vector<int8_t> weight = normal_integers(in * out, (1 << (weight_bits - 1)) - 1);
    const std::vector<float> ones(out, 1), exact(tier == EDGEKIT_EXACT ? in * out : 0, 1);
    PackedLinear linear({weight.data(), ones.data(), ones.data(), exact.data()}, int(in), int(out), format_of(tier));
    const Memory memory(linear.bytes());
    linear.pack(tier == EDGEKIT_QUALITY, nullptr, memory.data());
    Workspace x(rows * (linear.view.steps * 4 + 64)), y(rows * linear.view.padded_out() * sizeof(float));
    if (!x.data() || !y.data()) return 0;
    for (size_t i = 0; i < rows * (linear.view.steps * 4 + size_t{64}); ++i) x.data()[i] = 1;
    double best = 0;
    for (const double end = seconds() + 0.3; seconds() < end;) {
        const double start = seconds();
        k.gemm(linear.view, x.data(), reinterpret_cast<float*>(y.data()), int(rows));
        const double rate = double(rows) * in * out / (seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}
