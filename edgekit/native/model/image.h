// The evaluation transform on bytes: shortest edge by antialiased bicubic, centre crop, normalisation.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

namespace edgekit {

struct Transform {
    int height = 0, width = 0;  // of the crop
    int shortest_edge = 0;      // before it
    bool normalized = true;     // false: the network takes levels 0..255
    float mean[3] = {}, deviation[3] = {};
};

struct Picture {
    const uint8_t* rgb = nullptr;  // (height, width, 3)
    int height = 0, width = 0;
    size_t stride = 0;  // bytes from row to row
};

inline constexpr int most_side = 1 << 16;  // of a picture

// The crop (height, width, 3), equal to Pillow's byte for byte; empty, or why there is none.
std::string crop_picture(const Picture& picture, const Transform& transform, uint8_t* crop);
// A crop as the network takes it: (3, height, width).
void pixels_of(const uint8_t* crop, const Transform& transform, float* pixels);

}  // namespace edgekit
