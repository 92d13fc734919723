// The tile instructions in portable code with the same bits, for tests of the AMX unit on any CPU. Like the instructions they
// honour the thread's configuration, and abort where an instruction would fault: tiles of unfitting shapes, or none.
//
// Sums of bfloat16 are those of the hardware: for each output one chain of fused multiply-adds over the even and one over the
// odd members of the pairs, then their sum is added; denormals count as 0 throughout. 512 000 values were compared with an
// Intel Xeon, none differed.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace edgekit::emulated {

struct Config {  // as ldtilecfg reads it
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

struct Tiles {
    Config config;
    uint8_t data[8][16][64];
};
inline thread_local Tiles tiles;
inline int requests = 0;  // how often permission was asked for

// TilePermission of the emulation: EDGEKIT_EMULATED_AMX=refused stands for a system that says no.
struct System {
    static bool cpu() { return true; }
    static bool supported() { return true; }
    static bool request() {
        __atomic_add_fetch(&requests, 1, __ATOMIC_RELAXED);
        const char* answer = getenv("EDGEKIT_EMULATED_AMX");
        return !answer || strcmp(answer, "refused") != 0;
    }
};

inline void must(bool holds) {
    if (!holds) abort();
}

inline int rows_of(int tile) {
    must(tiles.config.palette == 1 && tiles.config.rows[tile] >= 1 && tiles.config.rows[tile] <= 16);
    return tiles.config.rows[tile];
}
inline int bytes_of(int tile) {
    must(tiles.config.row_bytes[tile] >= 4 && tiles.config.row_bytes[tile] <= 64 && tiles.config.row_bytes[tile] % 4 == 0);
    return tiles.config.row_bytes[tile];
}

inline void tile_config_load(const void* config) {
    memcpy(&tiles.config, config, sizeof(Config));
    memset(tiles.data, 0, sizeof tiles.data);
}
inline void tile_config_store(void* config) { memcpy(config, &tiles.config, sizeof(Config)); }
inline void tile_release() { memset(&tiles, 0, sizeof tiles); }

template <int tile>
void tile_zero() {
    must(rows_of(tile) > 0);
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}
template <int tile>
void tile_load(const void* from, size_t stride) {
    tile_zero<tile>();
    for (int r = 0; r < rows_of(tile); ++r) memcpy(tiles.data[tile][r], static_cast<const char*>(from) + r * stride, bytes_of(tile));
}
template <int tile>
void tile_store(void* to, size_t stride) {
    for (int r = 0; r < rows_of(tile); ++r) memcpy(static_cast<char*>(to) + r * stride, tiles.data[tile][r], bytes_of(tile));
}

// Shapes as the instructions demand them: sums (m, n), a (m, k groups of 4 bytes), w (k, n).
inline void must_fit(int sums, int a, int w) {
    must(rows_of(sums) == rows_of(a) && bytes_of(sums) == bytes_of(w) && bytes_of(a) == 4 * rows_of(w));
}

template <class Activation>
void dot_bytes(int sums, int a, int w) {
    must_fit(sums, a, w);
    const int outputs = bytes_of(sums) / 4;
    for (int m = 0; m < rows_of(sums); ++m) {
        uint32_t total[16];  // sums wrap
        memcpy(total, tiles.data[sums][m], sizeof total);
        for (int k = 0; k < rows_of(w); ++k) {
            Activation x[4];
            int8_t y[64];
            memcpy(x, tiles.data[a][m] + 4 * k, sizeof x);
            memcpy(y, tiles.data[w][k], sizeof y);
            for (int n = 0; n < outputs; ++n)
                total[n] += uint32_t(x[0] * y[4 * n] + x[1] * y[4 * n + 1] + x[2] * y[4 * n + 2] + x[3] * y[4 * n + 3]);
        }
        memcpy(tiles.data[sums][m], total, sizeof total);
    }
}
template <int sums, int a, int w>
void tile_dot_u8s8() { dot_bytes<uint8_t>(sums, a, w); }
template <int sums, int a, int w>
void tile_dot_s8s8() { dot_bytes<int8_t>(sums, a, w); }

inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline float flushed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7f800000 ? value : float_of(bits & 0x80000000);
}

template <int sums, int a, int w>
void tile_dot_bf16() {
    must_fit(sums, a, w);
    for (int m = 0; m < rows_of(sums); ++m)
        for (int n = 0; n < bytes_of(sums) / 4; ++n) {
            float part[2] = {};
            for (int k = 0; k < rows_of(w); ++k) {
                uint16_t x[2], y[2];
                memcpy(x, tiles.data[a][m] + 4 * k, sizeof x);
                memcpy(y, tiles.data[w][k] + 4 * n, sizeof y);
                for (int i = 0; i < 2; ++i)
                    part[i] = flushed(__builtin_fmaf(flushed(float_of(uint32_t(x[i]) << 16)),
                                                     flushed(float_of(uint32_t(y[i]) << 16)), part[i]));
            }
            float total;
            memcpy(&total, tiles.data[sums][m] + 4 * n, sizeof total);
            total = flushed(flushed(total) + flushed(part[0] + part[1]));
            memcpy(tiles.data[sums][m] + 4 * n, &total, sizeof total);
        }
}

}  // namespace edgekit::emulated
