// Pictures in, pixel_values out: resize, crop and normalisation equal to edgekit's in Python (and to Pillow's) byte for byte.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode.h"

struct Transform {
    int height, width;  // of the crop
    int shortest_edge;  // 0: the picture is resized whole, without a crop
    bool normalize;  // false: the graph does it
    float mean[3], deviation[3];
    int patch, least, most;  // of a model for images of any size: their sides are multiples of `patch`; 0 of any other
};

inline std::string read_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// What follows `"key":` in JSON, whatever is around it; enough for the flat files of a bundle.
inline const char* value_of(const std::string& json, const std::string& key, size_t from = 0) {
    const size_t at = json.find('"' + key + '"', from);
    if (at == std::string::npos) throw std::runtime_error("no " + key);
    return json.c_str() + json.find_first_not_of(" \n\t:[", at + key.size() + 2);
}

inline Transform read_transform(const std::string& bundle) {
    const std::string json = read_text(bundle + "/preprocessor_config.json");
    const bool cropped = json.find("\"shortest_edge\"") != std::string::npos;
    Transform t{atoi(value_of(json, "height")), atoi(value_of(json, "width")),
                cropped ? atoi(value_of(json, "shortest_edge")) : 0, *value_of(json, "do_normalize") == 't', {}, {}, 0, 0, 0};
    if (json.find("\"sides\"") != std::string::npos) {
        char* end;
        t.patch = atoi(value_of(json, "patch_size"));
        t.least = int(strtol(value_of(json, "sides"), &end, 10)), t.most = atoi(end + 1 + strspn(end + 1, " \n"));
    }
    const char *mean = value_of(json, "image_mean"), *deviation = value_of(json, "image_std");
    for (int c = 0; c < 3; ++c) {
        char* end;
        t.mean[c] = float(strtod(mean, &end)), mean = end + 1;
        t.deviation[c] = float(strtod(deviation, &end)), deviation = end + 1;
    }
    return t;
}

inline double bicubic(double x) {  // a = -0.5
    x = std::fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// One output pixel of a resize: input pixels first .. first + weights.size(), weights in 22 bits of fraction.
struct Tap {
    int first;
    std::vector<int> weights;
};

// The support grows with the scale (antialias), as in Pillow's Image.resize.
inline std::vector<Tap> taps(int from, int to) {
    const double scale = double(from) / to, stretch = scale > 1 ? scale : 1, support = 2 * stretch;
    std::vector<Tap> all(to);
    for (int i = 0; i < to; ++i) {
        const double centre = (i + 0.5) * scale;
        const int first = std::max(0, int(centre - support + 0.5)), last = std::min(from, int(centre + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int j = first; j < last; ++j) weights.push_back(bicubic((j - centre + 0.5) * (1 / stretch))), sum += weights.back();
        all[i].first = first;
        for (double w : weights) all[i].weights.push_back(int(w * (1 / sum) * (1 << 22) + (w < 0 ? -0.5 : 0.5)));
    }
    return all;
}

inline uint8_t rounded(int sum) { return uint8_t(std::min(255, std::max(0, (sum + (1 << 21)) >> 22))); }

inline Picture resized_across(const Picture& in, int width) {
    const std::vector<Tap> columns = taps(in.width, width);
    Picture out{width, in.height, std::vector<uint8_t>(size_t(3) * width * in.height)};
    for (int y = 0; y < in.height; ++y)
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < 3; ++c) {
                int sum = 0;
                const uint8_t* pixel = &in.rgb[(size_t(y) * in.width + columns[x].first) * 3 + c];
                for (int w : columns[x].weights) sum += w * *pixel, pixel += 3;
                out.rgb[(size_t(y) * width + x) * 3 + c] = rounded(sum);
            }
    return out;
}

inline Picture resized_down(const Picture& in, int height) {
    const std::vector<Tap> rows = taps(in.height, height);
    const size_t row = size_t(3) * in.width;
    Picture out{in.width, height, std::vector<uint8_t>(row * height)};
    for (int y = 0; y < height; ++y)
        for (size_t i = 0; i < row; ++i) {
            int sum = 0;
            const uint8_t* pixel = &in.rgb[rows[y].first * row + i];
            for (int w : rows[y].weights) sum += w * *pixel, pixel += row;
            out.rgb[y * row + i] = rounded(sum);
        }
    return out;
}

// Pillow 13 begins with the height where that shrinks by more than twice as many pixels; it changes roundings.
inline Picture resized(const Picture& in, int width, int height) {
    if (in.height > height && in.height - height > 2 * (in.width - width)) return resized_across(resized_down(in, height), width);
    return resized_down(resized_across(in, width), height);
}

// Shorter edge to its length, more where the crop needs more; then the middle. nearbyint rounds halves to even.
inline Picture cropped(const Picture& in, const Transform& t) {
    if (!t.shortest_edge) return resized(in, t.width, t.height);
    const bool tall = in.width <= in.height;
    const int longer = int(double(t.shortest_edge) * std::max(in.width, in.height) / std::min(in.width, in.height));
    int width = tall ? t.shortest_edge : longer, height = tall ? longer : t.shortest_edge;
    const double missing = std::max(double(t.width) / width, double(t.height) / height);
    if (missing > 1)
        width = std::max(t.width, int(std::nearbyint(width * missing))),
        height = std::max(t.height, int(std::nearbyint(height * missing)));
    if (double(width) * height > 1e8) throw std::runtime_error("the picture is too thin");
    const Picture full = resized(in, width, height);
    const int left = int(std::nearbyint((width - t.width) / 2.0)), top = int(std::nearbyint((height - t.height) / 2.0));
    Picture out{t.width, t.height, {}};
    for (int y = 0; y < t.height; ++y) {
        const uint8_t* row = &full.rgb[(size_t(top + y) * width + left) * 3];
        out.rgb.insert(out.rgb.end(), row, row + 3 * t.width);
    }
    return out;
}

// The multiple of the patch nearest to a side, halves to even as in Python, within the sides that the model takes.
inline int nearest_side(double side, const Transform& t) {
    const int least = (t.least + t.patch - 1) / t.patch, most = t.most / t.patch;
    return std::min(std::max(int(std::nearbyint(side / t.patch)), least), most) * t.patch;
}

// The whole picture for a model for images of any size: its shorter edge becomes the model's own, nothing is cropped.
inline Picture whole(const Picture& in, const Transform& t) {
    const double scale = double(std::min(t.width, t.height)) / std::min(in.width, in.height);
    const int width = nearest_side(in.width * scale, t), height = nearest_side(in.height * scale, t);
    if (std::fabs(width - in.width * scale) > t.patch || std::fabs(height - in.height * scale) > t.patch)
        throw std::runtime_error("the picture is longer than the model takes; the nearest size is " + std::to_string(height) +
                                 "x" + std::to_string(width));
    return in.width == width && in.height == height ? in : resized(in, width, height);
}

// As the model takes it: whole, or cropped to its one size.
inline Picture fitted(const Picture& in, const Transform& t) { return t.patch ? whole(in, t) : cropped(in, t); }

// (3, H, W) float32.
inline std::vector<float> pixel_values(const Picture& crop, const Transform& t) {
    const size_t plane = size_t(crop.width) * crop.height;
    std::vector<float> values(3 * plane);
    for (size_t i = 0; i < plane; ++i)
        for (int c = 0; c < 3; ++c) {
            const float level = crop.rgb[3 * i + c];
            values[c * plane + i] = t.normalize ? (level / 255 - t.mean[c]) / t.deviation[c] : level;
        }
    return values;
}
