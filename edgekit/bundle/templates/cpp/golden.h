// The self-check against ../golden, and the command line that both programs share.
#pragma once

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "picture.h"

// pixel_values (3, height, width) of one picture -> pooler_output
using Embed = std::function<std::vector<float>(const std::vector<float>& pixel_values, int height, int width)>;

constexpr double least_cosine = 0.99;    // of INT8 with FP32 (golden/README.md)
constexpr double most_difference = 1.0;  // mean, in levels; 0 from a .ppm

class Safetensors {
public:
    explicit Safetensors(const std::string& path) : bytes_(read_text(path)) {
        uint64_t length = 0;
        if (bytes_.size() >= 8) memcpy(&length, bytes_.data(), 8);
        if (length == 0 || length > bytes_.size() - 8) throw std::runtime_error(path + " is no safetensors file");
        header_ = bytes_.substr(8, length);
    }
    template <class T> std::vector<T> tensor(const std::string& name) const {
        char* end;
        const size_t at = size_t(value_of(header_, name) - header_.c_str());
        const size_t first = strtoull(value_of(header_, "data_offsets", at), &end, 10), last = strtoull(end + 1, nullptr, 10);
        if (first > last || 8 + header_.size() + last > bytes_.size()) throw std::runtime_error(name + " is cut off");
        std::vector<T> values((last - first) / sizeof(T));
        memcpy(values.data(), &bytes_[8 + header_.size() + first], values.size() * sizeof(T));
        return values;
    }

    const std::string& header() const { return header_; }

private:
    std::string bytes_, header_;
};

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) ab += double(a[i]) * b[i], aa += double(a[i]) * a[i], bb += double(b[i]) * b[i];
    return a.size() == b.size() ? ab / std::sqrt(aa * bb) : std::numeric_limits<double>::quiet_NaN();
}

inline bool report(const std::string& name, double cosine, double difference) {
    const bool passed = cosine >= least_cosine && difference <= most_difference;  // false for NaN as well
    printf("%s %-12s cosine %.6f, crop %.3f levels off\n", passed ? "passed" : "FAILED", name.c_str(), cosine, difference);
    return passed;
}

// The golden images of several shapes, which a model for any size has to take.
inline bool check_shapes(const std::string& golden, const Embed& embed) {
    const Safetensors file(golden + "sizes.safetensors");
    const std::string ending = ".pixel_values\"";
    bool passed = true;
    for (size_t at = file.header().find(ending); at != std::string::npos; at = file.header().find(ending, at + 1)) {
        const size_t start = file.header().rfind('"', at - 1) + 1;
        const std::string size = file.header().substr(start, at - start);  // "70x112"
        const int height = atoi(size.c_str()), width = atoi(size.c_str() + size.find('x') + 1);
        const auto pixels = file.tensor<float>(size + ".pixel_values"), expected = file.tensor<float>(size + ".pooler_output");
        passed &= pixels.size() == size_t(3) * height * width && report(size, cosine(embed(pixels, height, width), expected), 0);
    }
    return passed;
}

inline bool check_golden(const std::string& bundle, const Embed& embed) {
    const std::string golden = bundle + "/golden/";
    const Transform transform = read_transform(bundle);
    const std::vector<float> inputs = Safetensors(golden + "inputs.safetensors").tensor<float>("pixel_values");
    const std::vector<float> outputs = Safetensors(golden + "outputs.safetensors").tensor<float>("pooler_output");
    const size_t size = size_t(3) * transform.height * transform.width, images = inputs.size() / size;
    bool passed = images > 0;
    for (size_t i = 0, d = outputs.size() / images; i < images; ++i) {
        const auto from = inputs.begin() + long(i * size);
        const auto expected = outputs.begin() + long(i * d);
        passed &= report("tensor " + std::to_string(i), cosine(embed({from, from + long(size)}, transform.height, transform.width), {expected, expected + long(d)}), 0);
    }
    if (transform.patch) passed &= check_shapes(golden, embed);
    const Safetensors pictures(golden + "pictures.safetensors");
    for (const auto& entry : std::filesystem::directory_iterator(golden + "pictures")) {
        const std::string name = entry.path().stem().string();
#ifndef HAVE_STB
        if (entry.path().extension() != ".ppm") continue;
#endif
        const Picture crop = cropped(read_picture(entry.path().string()), transform);
        const std::vector<uint8_t> wanted = pictures.tensor<uint8_t>(name + ".crop");
        double difference = wanted.size() == crop.rgb.size() ? 0 : 255;
        for (size_t i = 0; i < std::min(wanted.size(), crop.rgb.size()); ++i)
            difference += std::abs(int(wanted[i]) - crop.rgb[i]) / double(wanted.size());
        const auto expected = pictures.tensor<float>(name + ".pooler_output");
        passed &= report(entry.path().filename().string(), cosine(embed(pixel_values(crop, transform), crop.height, crop.width), expected), difference);
    }
    return passed;
}

// PROGRAM BUNDLE MODEL --check, or PROGRAM BUNDLE MODEL PICTURE [PICTURE]: the embedding, or how alike two pictures are.
inline int embed_pictures(const std::string& bundle, int count, char** pictures, const Embed& embed) {
    if (!strcmp(pictures[0], "--check")) return check_golden(bundle, embed) ? 0 : 1;
    const Transform transform = read_transform(bundle);
    std::vector<std::vector<float>> found;
    for (int i = 0; i < count; ++i) {
        const Picture picture = fitted(read_picture(pictures[i]), transform);
        found.push_back(embed(pixel_values(picture, transform), picture.height, picture.width));
    }
    if (count == 2) return printf("cosine similarity %.4f\n", cosine(found[0], found[1])), 0;
    for (float value : found[0]) printf("%g\n", value);
    return 0;
}
