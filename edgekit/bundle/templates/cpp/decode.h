// Files become upright 8-bit RGB: binary PPM always, JPEG and PNG where stb_image is installed (Debian: libstb-dev).
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef HAVE_STB
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
#endif

struct Picture {
    int width, height;
    std::vector<uint8_t> rgb;  // (height, width, 3)
};

inline Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    Picture picture{};
    int most = 0;
    file >> kind >> picture.width >> picture.height >> most;
    file.get();
    if (kind == "P6" && most == 255 && picture.width > 0 && picture.height > 0) {
        picture.rgb.resize(size_t(3) * picture.width * picture.height);
        file.read(reinterpret_cast<char*>(picture.rgb.data()), std::streamsize(picture.rgb.size()));
    }
    if (!file || picture.rgb.empty()) throw std::runtime_error("cannot read " + path);
    return picture;
}

#ifdef HAVE_STB

// EXIF orientation 1..8 of a JPEG file, 1 where it has none.
inline int orientation_of(const std::vector<uint8_t>& file) {
    for (size_t at = 2; at + 10 < file.size() && file[at] == 0xFF && file[at + 1] != 0xDA;) {
        const size_t length = file[at + 2] << 8 | file[at + 3];
        if (file[at + 1] == 0xE1 && std::equal(&file[at + 4], &file[at + 8], "Exif")) {
            const uint8_t *tiff = &file[at + 10], *end = std::min(&file[at] + 2 + length, file.data() + file.size());
            const bool little = tiff + 8 <= end && tiff[0] == 'I';
            auto number = [&](const uint8_t* p, int bytes) {
                uint32_t n = 0;
                for (int i = 0; i < bytes; ++i) n = n << 8 | p[little ? bytes - 1 - i : i];
                return n;
            };
            if (tiff + 8 > end || number(tiff + 4, 4) + 2 > size_t(end - tiff)) return 1;
            const uint8_t* entry = tiff + number(tiff + 4, 4);
            for (uint32_t n = number(entry, 2), i = 0; i < n && entry + 14 + 12 * i <= end; ++i)
                if (const uint8_t* tag = entry + 2 + 12 * i; number(tag, 2) == 0x0112) return int(number(tag + 8, 2));
            return 1;
        }
        at += 2 + length;
    }
    return 1;
}

inline Picture upright(const Picture& in, int orientation) {
    if (orientation < 2 || orientation > 8) return in;
    const bool swapped = orientation >= 5;  // width and height
    Picture out{swapped ? in.height : in.width, swapped ? in.width : in.height, std::vector<uint8_t>(in.rgb.size())};
    for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x) {
            int u = swapped ? y : x, v = swapped ? x : y;  // column and row of the stored picture
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) u = in.width - 1 - u;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) v = in.height - 1 - v;
            std::copy_n(&in.rgb[(size_t(v) * in.width + u) * 3], 3, &out.rgb[(size_t(y) * out.width + x) * 3]);
        }
    return out;
}

#endif

// EXIF orientation applied, transparency laid on white.
inline Picture read_picture(const std::string& path) {
    if (path.size() > 4 && path.substr(path.size() - 4) == ".ppm") return read_ppm(path);
#ifdef HAVE_STB
    std::ifstream stream(path, std::ios::binary);
    const std::vector<uint8_t> file{std::istreambuf_iterator<char>(stream), {}};
    Picture picture{};
    uint8_t* rgba = stbi_load_from_memory(file.data(), int(file.size()), &picture.width, &picture.height, nullptr, 4);
    if (!rgba) throw std::runtime_error("cannot read " + path + ": " + stbi_failure_reason());
    for (size_t i = 0, n = size_t(picture.width) * picture.height; i < n; ++i)
        for (int c = 0; c < 3; ++c) {
            const int alpha = rgba[4 * i + 3];
            picture.rgb.push_back(uint8_t((rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 127) / 255));
        }
    stbi_image_free(rgba);
    return upright(picture, orientation_of(file));
#else
    throw std::runtime_error(path + " is no .ppm: install stb_image (Debian: libstb-dev) for JPEG and PNG, and build again");
#endif
}
