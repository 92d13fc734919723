// Resizes as Pillow does, in 22 bits of fraction, but only what the crop needs.
#include "image.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace edgekit {
namespace {

constexpr double most_resized = 1e8;  // pixels
constexpr int fraction = 22;

double bicubic(double x) {  // a = -0.5
    x = std::fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// One output pixel: input pixels from `first` on.
struct Tap {
    int first = 0;
    std::vector<int> weights;
    int last() const { return first + int(weights.size()); }
};

// Outputs `begin` to `end` of a resize; the support grows with the scale (antialias), as in Pillow's Image.resize.
std::vector<Tap> taps_of(int from, int to, int begin, int end) {
    const double scale = double(from) / to, stretch = std::max(scale, 1.0), support = 2 * stretch;
    std::vector<Tap> taps;
    for (int i = begin; i < end; ++i) {
        const double centre = (i + 0.5) * scale;
        const int first = std::max(0, int(centre - support + 0.5)), last = std::min(from, int(centre + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int j = first; j < last; ++j) weights.push_back(bicubic((j - centre + 0.5) * (1 / stretch))), sum += weights.back();
        taps.push_back({first, {}});
        for (double w : weights) taps.back().weights.push_back(int(w * (1 / sum) * (1 << fraction) + (w < 0 ? -0.5 : 0.5)));
    }
    return taps;
}

uint8_t rounded(int sum) { return uint8_t(std::clamp((sum + (1 << (fraction - 1))) >> fraction, 0, 255)); }

// Rows (count) of bytes, each resized across to `taps`.
void across(const uint8_t* from, size_t stride, int rows, const std::vector<Tap>& taps, uint8_t* to) {
    for (int y = 0; y < rows; ++y, from += stride)
        for (const Tap& tap : taps) {
            int sums[3] = {};
            const uint8_t* pixel = from + size_t(tap.first) * 3;
            for (int weight : tap.weights)
                for (int c = 0; c < 3; ++c) sums[c] += weight * *pixel++;
            for (int sum : sums) *to++ = rounded(sum);
        }
}

// Each output row from rows of `length` bytes; `first` is the number of the first row that is there.
void down(const uint8_t* from, size_t stride, int first, size_t length, const std::vector<Tap>& taps, uint8_t* to) {
    std::vector<int> sums(length);
    for (const Tap& tap : taps) {
        std::fill(sums.begin(), sums.end(), 0);
        for (size_t k = 0; k < tap.weights.size(); ++k) {
            const uint8_t* row = from + (size_t(tap.first - first) + k) * stride;
            for (size_t i = 0; i < length; ++i) sums[i] += tap.weights[k] * row[i];
        }
        for (size_t i = 0; i < length; ++i) *to++ = rounded(sums[i]);
    }
}

struct Span {
    int begin, end;
};

Span span_of(const std::vector<Tap>& taps) {
    Span span{taps[0].first, taps[0].last()};
    for (const Tap& tap : taps) span = {std::min(span.begin, tap.first), std::max(span.end, tap.last())};
    return span;
}

struct Size {
    int height, width;
};

// Before the crop: the shorter edge to its length, more where the crop needs more. nearbyint rounds halves to even.
Size resized(const Picture& picture, const Transform& t) {
    const int shorter = std::min(picture.width, picture.height), longer = std::max(picture.width, picture.height);
    const double long_edge = std::floor(double(t.shortest_edge) * longer / shorter);
    const bool tall = picture.width <= picture.height;
    double width = tall ? t.shortest_edge : long_edge, height = tall ? long_edge : t.shortest_edge;
    const double missing = std::max(t.width / width, t.height / height);
    if (missing > 1)
        width = std::max<double>(t.width, std::nearbyint(width * missing)), height = std::max<double>(t.height, std::nearbyint(height * missing));
    return width * height > most_resized ? Size{0, 0} : Size{int(height), int(width)};
}

}  // namespace

std::string crop_picture(const Picture& picture, const Transform& t, uint8_t* crop) {
    const auto sides = [](int width, int height) { return std::to_string(width) + " x " + std::to_string(height) + " pixels"; };
    if (!picture.rgb) return "the picture is NULL";
    if (picture.width < 1 || picture.height < 1 || picture.width > most_side || picture.height > most_side)
        return "a picture of " + sides(picture.width, picture.height) + ": sides are 1 to " + std::to_string(most_side);
    if (picture.stride < size_t(3) * picture.width) return "rows of " + sides(picture.width, 1) + " do not fit a stride of " + std::to_string(picture.stride);
    const Size full = resized(picture, t);
    if (!full.width) return "the picture is too thin: " + sides(picture.width, picture.height);
    const int left = int(std::nearbyint((full.width - t.width) / 2.0)), top = int(std::nearbyint((full.height - t.height) / 2.0));
    const std::vector<Tap> columns = taps_of(picture.width, full.width, left, left + t.width);
    const std::vector<Tap> rows = taps_of(picture.height, full.height, top, top + t.height);
    const Span wide = span_of(columns), high = span_of(rows);
    const size_t row = size_t(3) * t.width;
    // Pillow 13 begins with the height where that shrinks by more than twice as many pixels; it changes roundings.
    if (picture.height > full.height && picture.height - full.height > 2 * (picture.width - full.width)) {
        const size_t length = size_t(3) * (wide.end - wide.begin);
        std::vector<uint8_t> flat(length * t.height);
        down(picture.rgb + size_t(wide.begin) * 3, picture.stride, 0, length, rows, flat.data());
        std::vector<Tap> shifted = columns;
        for (Tap& tap : shifted) tap.first -= wide.begin;
        across(flat.data(), length, t.height, shifted, crop);
    } else {
        std::vector<uint8_t> narrow(row * size_t(high.end - high.begin));
        across(picture.rgb + high.begin * picture.stride, picture.stride, high.end - high.begin, columns, narrow.data());
        down(narrow.data(), row, high.begin, row, rows, crop);
    }
    return "";
}

void pixels_of(const uint8_t* crop, const Transform& t, float* pixels) {
    const size_t plane = size_t(t.width) * t.height;
    for (int c = 0; c < 3; ++c) {
        float levels[256];
        for (int i = 0; i < 256; ++i) levels[i] = t.normalized ? (float(i) / 255 - t.mean[c]) / t.deviation[c] : float(i);
        for (size_t i = 0; i < plane; ++i) pixels[size_t(c) * plane + i] = levels[crop[3 * i + c]];
    }
}

}  // namespace edgekit
