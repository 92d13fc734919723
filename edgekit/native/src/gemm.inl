// Panels policies: how packed weights meet rows of activations. A policy P of a linear layer has
//   P::format                 how pack.cpp packs it
//   P::acc                    the vector of its sums: vi, or vf of floats
//   P(linear)                 a view of the packed weights
//   multiply_rows(a, a_stride, rows, sink, ahead)   calls sink(tile, first row, rows, first column) for each tile
//                             (rows, columns) of sums, and ahead(first row, rows, first column) before it is computed
//   P::ceiling(rounds)        multiply-accumulates of `rounds` rounds in registers alone, for the benchmarks
// DotPanels is R rows of broadcast activations against vectors of weights with a `dot` instruction, ChainedPanels
// (chains.inl) is for CPUs whose byte products saturate, TilePanels (tiles.inl) for matrix engines.

struct DotF32 {
    using acc = vf;
    using element = float;
    static constexpr int group = 1;
    static inline vf dot(vf sum, vi a, vi w) { return sum + (vf)a * (vf)w; }
};

// Instructions that take one lane of a register for all of the other: no activation has to be spread before.
template <class Dot>
concept ByLane = requires(typename Dot::acc sum, vi a) { Dot::template dot_lane<0>(sum, a, a); };

static constexpr int columns = VECTORS * LANES;  // of one tile: 16 or 32
static_assert(columns % panel_outputs == 0 && 32 % columns == 0);

// Prefetch distance of weights in bytes: those of a whole model do not stay in the caches.
static constexpr size_t weights_ahead = 2048;

template <int v>
static inline __attribute__((always_inline)) vi weights_of(const char* w, size_t panel_bytes) {
    constexpr int panel = v * LANES / panel_outputs;
    vi weights;
    __builtin_memcpy(&weights, w + panel * panel_bytes + v * LANES % panel_outputs * 4, sizeof weights);
    return weights;
}

// One step whose activations are lane `lane` of the rows, a vector of weights after the other.
template <class Dot, int R, int lane, int v = 0>
static inline __attribute__((always_inline)) void add_step(typename Dot::acc (&sums)[R][VECTORS], const vi (&rows)[R],
                                                           const char* w, size_t panel_bytes) {
    if constexpr (v < VECTORS) {
        const vi weights = weights_of<v>(w, panel_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r][v] = Dot::template dot_lane<lane>(sums[r][v], rows[r], weights);
        add_step<Dot, R, lane, v + 1>(sums, rows, w, panel_bytes);
    }
}

template <class Dot, int R, int lane = 0>
static inline __attribute__((always_inline)) void add_steps(typename Dot::acc (&sums)[R][VECTORS], const vi (&rows)[R],
                                                            const char* w, size_t panel_bytes) {
    if constexpr (lane < LANES) {
        __builtin_prefetch(w + weights_ahead);
        add_step<Dot, R, lane>(sums, rows, w, panel_bytes);
        add_steps<Dot, R, lane + 1>(sums, rows, w + step_bytes, panel_bytes);
    }
}

// tile (R, columns) = a (R, steps) x w; `a` in units of 4 bytes.
template <class Dot, int R>
static inline __attribute__((always_inline)) void multiply_tile(const char* a, size_t a_stride, const char* w,
                                                                size_t panel_bytes, int steps, char* tile) {
    typename Dot::acc sums[R][VECTORS] = {};
    int s = 0;
    if constexpr (ByLane<Dot>) {
        for (; s + LANES <= steps; s += LANES, w += LANES * step_bytes) {
            vi rows[R];
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) __builtin_memcpy(&rows[r], a + r * a_stride + s * 4, sizeof(vi));
            add_steps<Dot, R>(sums, rows, w, panel_bytes);
        }
    }
    for (; s < steps; ++s) {
        vi weights[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            if (v * LANES % panel_outputs == 0) __builtin_prefetch(w + v * LANES / panel_outputs * panel_bytes + weights_ahead);
            __builtin_memcpy(&weights[v], w + (v * LANES / panel_outputs) * panel_bytes + (v * LANES % panel_outputs) * 4,
                             sizeof(vi));
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            int32_t group;
            __builtin_memcpy(&group, a + r * a_stride + s * 4, 4);
            vi spread = splat(group);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = Dot::dot(sums[r][v], spread, weights[v]);
        }
        w += step_bytes;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v)
            __builtin_memcpy(tile + (r * VECTORS + v) * sizeof(vi), &sums[r][v], sizeof(vi));
}

template <class Dot, int R = ROWS>
static void multiply_some(int rows, const char* a, size_t a_stride, const char* w, size_t panel_bytes, int steps, char* tile) {
    if constexpr (R > 0) {
        if (rows == R) return multiply_tile<Dot, R>(a, a_stride, w, panel_bytes, steps, tile);
        multiply_some<Dot, R - 1>(rows, a, a_stride, w, panel_bytes, steps, tile);
    }
}

template <int count, int write>
static inline void fetch(const float* p) {
    for (int i = 0; i < count; i += 16) __builtin_prefetch(p + i, write);
}

struct Nothing {
    void operator()(int, int, int) const {}
};

// Calls multiply(first row, rows, first column, tile) and sink for every tile of at most `at_once` rows; a panel stays in
// L1d while all rows pass it.
template <int most_rows, class Multiply, class Sink, class Ahead>
static inline void tile_by_tile(int at_once, int panels, int rows, Multiply&& multiply, Sink&& sink, Ahead&& ahead) {
    alignas(64) char tile[most_rows * columns * 4];
    const int groups = (rows + at_once - 1) / at_once, size = groups ? (rows + groups - 1) / groups : 0;
    for (int column = 0; column < panels * panel_outputs; column += columns)
        for (int row = 0; row < rows; row += size) {
            const int some = lesser(size, rows - row);
            ahead(row, some, column);
            multiply(row, some, column, tile);
            sink(tile, row, some, column);
        }
}

template <class Dot>
static double ceiling_of(int rounds);

template <class Dot>
struct DotPanels {
    using acc = typename Dot::acc;
    static constexpr Format format = Dot::group == 4 ? Format::u8s8 : Dot::group == 2 ? Format::s16s16 : Format::f32;
    const char* packed;
    int panels, steps;
    size_t panel_bytes;

    DotPanels(const char* weights, int panel_count, int step_count, size_t bytes)
        : packed(weights), panels(panel_count), steps(step_count), panel_bytes(bytes) {}
    explicit DotPanels(const Linear& linear)
        : DotPanels(linear.packed, linear.panels, linear.steps, linear.steps * step_bytes) {}

    template <class Sink, class Ahead = Nothing>
    void multiply_rows(const char* a, size_t a_stride, int rows, Sink&& sink, Ahead&& ahead = {}) const {
        auto multiply = [&](int row, int some, int column, char* tile) {
            multiply_some<Dot>(some, a + row * a_stride, a_stride, packed + column / panel_outputs * panel_bytes, panel_bytes, steps, tile);
        };
        tile_by_tile<ROWS>(ROWS, panels, rows, multiply, sink, ahead);
    }
    static double ceiling(int rounds) { return ceiling_of<Dot>(rounds); }
};

template <class Dot>
static __attribute__((noinline)) double ceiling_of(int rounds) {
    typename Dot::acc sums[12] = {};
    vi a = splat(0x3f010101), w = a;  // 0.504 as float: products of denormals would be slow
    for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) {
            __asm__ volatile("" : "+" VECTOR_REGISTER(a));  // else the product of constants leaves the loop
            sums[j] = Dot::dot(sums[j], a, w);
            __asm__ volatile("" : "+" VECTOR_REGISTER(sums[j]));
        }
    }
    return double(rounds) * 12 * LANES * Dot::group;
}
