// Bicubic resampling along one axis after the other, and the angles of DINOv3.
#include "positions.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgekit {
namespace {

// One output place: weights of the input places from `first` on, those beyond an edge added to the edge's.
struct Tap {
    int first = 0;
    std::vector<float> weights;
};

double cubic(double x, double a) {
    x = std::fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// Of torch's plain bicubic, a = -0.75: four neighbours whatever the scale, `step` input places from output to output.
std::vector<Tap> plain_taps(int from, int to, double step) {
    std::vector<Tap> taps(to);
    for (int i = 0; i < to; ++i) {
        const double source = step * (i + 0.5) - 0.5, place = std::floor(source), t = source - place;
        const int low = std::clamp(int(place) - 1, 0, from - 1), high = std::clamp(int(place) + 2, 0, from - 1);
        taps[i] = {low, std::vector<float>(size_t(high - low + 1))};
        for (int k = -1; k <= 2; ++k) taps[i].weights[size_t(std::clamp(int(place) + k, 0, from - 1) - low)] += float(cubic(t - k, -0.75));
    }
    return taps;
}

// Of its antialiased bicubic, a = -0.5: the support grows with the scale.
std::vector<Tap> antialiased_taps(int from, int to) {
    const double scale = double(from) / to, stretch = std::max(scale, 1.0), support = 2 * stretch;
    std::vector<Tap> taps(to);
    for (int i = 0; i < to; ++i) {
        const double centre = scale * (i + 0.5);
        const int first = std::max(0, int(centre - support + 0.5)), last = std::min(from, int(centre + support + 0.5));
        double sum = 0;
        std::vector<double> weights;
        for (int j = first; j < last; ++j) weights.push_back(cubic((j - centre + 0.5) / stretch, -0.5)), sum += weights.back();
        taps[i].first = first;
        for (double weight : weights) taps[i].weights.push_back(float(weight / sum));
    }
    return taps;
}

std::vector<Tap> taps_of(Interpolation interpolation, int from, int to) {
    if (interpolation == Interpolation::antialias) return antialiased_taps(from, to);
    // "offset" gives torch a scale factor, a tenth too large; its reciprocal is the step.
    const double step = interpolation == Interpolation::offset ? from / (to + 0.1) : double(from) / to;
    return plain_taps(from, to, step);
}

// Each line (count, stride apart) of `length` values weighted by one tap per output.
void weighted(const float* from, const std::vector<Tap>& taps, size_t stride, int length, float* to) {
    for (size_t i = 0; i < taps.size(); ++i) {
        float* sums = to + i * stride;
        std::fill_n(sums, length, 0.0f);
        for (size_t k = 0; k < taps[i].weights.size(); ++k) {
            const float *line = from + (size_t(taps[i].first) + k) * stride, weight = taps[i].weights[k];
            for (int c = 0; c < length; ++c) sums[c] += weight * line[c];
        }
    }
}

}  // namespace

void resample_positions(const float* table, Grid from, int width, Interpolation interpolation, Grid to, float* out) {
    const std::vector<Tap> across = taps_of(interpolation, from.columns, to.columns), down = taps_of(interpolation, from.rows, to.rows);
    const size_t row = size_t(to.columns) * width;
    std::vector<float> widened(size_t(from.rows) * row);
    for (int y = 0; y < from.rows; ++y)
        weighted(table + size_t(y) * from.columns * width, across, size_t(width), width, widened.data() + y * row);
    weighted(widened.data(), down, row, int(row), out);
}

static double rounded_to_bfloat16(double value) {
    const float narrow = float(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    float rounded;
    std::memcpy(&rounded, &bits, sizeof rounded);
    return rounded;
}

std::vector<double> rotary_periods(double base, int dim, bool bfloat16) {
    std::vector<double> periods;
    for (int j = 0; j < dim / 4; ++j) {
        const double period = std::pow(base, 4.0 * j / dim);
        periods.push_back(bfloat16 ? rounded_to_bfloat16(period) : period);
    }
    return periods;
}

void rotary_tables(const std::vector<double>& periods, Grid grid, float* cos, float* sin) {
    constexpr double turn = 6.283185307179586;
    for (int y = 0; y < grid.rows; ++y)
        for (int x = 0; x < grid.columns; ++x)
            for (const double place : {2 * (y + 0.5) / grid.rows - 1, 2 * (x + 0.5) / grid.columns - 1})
                for (const double period : periods) *cos++ = float(std::cos(turn * place / period)), *sin++ = float(std::sin(turn * place / period));
}

}  // namespace edgekit
