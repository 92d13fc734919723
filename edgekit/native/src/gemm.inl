// The one inner loop: R rows of broadcast activations against panels of weights, for every number format.

struct Floats {
    using acc = vf;
    using element = float;
    static constexpr int group = 1;
    static inline vf dot(vf sum, vi a, vi w) { return sum + (vf)a * (vf)w; }
};

static constexpr int columns = VECTORS * LANES;  // of one tile: 16 or 32
static_assert(columns % panel_outputs == 0 && 32 % columns == 0);

// Bytes from the weights at hand to those that are asked of memory: a model's do not stay in the caches.
static constexpr size_t weights_ahead = 2048;

// tile (R, columns) = a (R, steps) x w; `a` in units of 4 bytes.
template <class Dot, int R>
static inline __attribute__((always_inline)) void multiply_rows(const char* a, size_t a_stride, const char* w,
                                                                size_t panel_bytes, int steps, char* tile) {
    typename Dot::acc sums[R][VECTORS] = {};
    for (int s = 0; s < steps; ++s) {
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
        if (rows == R) return multiply_rows<Dot, R>(a, a_stride, w, panel_bytes, steps, tile);
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

// For gemm(): panels of weights that every row meets in their order.
template <class Dot>
struct Panels {
    const char* packed;
    int steps;
    size_t panel_bytes = steps * step_bytes;

    static constexpr int most_rows = ROWS;
    static int rows_at_once(size_t) { return ROWS; }

    void multiply(int rows, const char* a, size_t a_stride, int column, char* tile) const {
        multiply_some<Dot>(rows, a, a_stride, packed + column / panel_outputs * panel_bytes, panel_bytes, steps, tile);
    }
};

// Calls sink(tile, first row, rows, first column) for each tile of (rows, panels * 16), and before it is computed
// ahead(first row, rows, first column); a panel stays in the first cache while all rows pass it.
template <class Weights, class Sink, class Ahead = Nothing>
static inline void gemm(const Weights& weights, int panels, const char* a, size_t a_stride, int rows, Sink&& sink,
                        Ahead&& ahead = {}) {
    alignas(64) char tile[Weights::most_rows * columns * 4];
    const int most = weights.rows_at_once(a_stride), groups = (rows + most - 1) / most, size = (rows + groups - 1) / groups;
    for (int column = 0; column < panels * panel_outputs; column += columns)
        for (int row = 0; row < rows; row += size) {
            const int some = lesser(size, rows - row);
            ahead(row, some, column);
            weights.multiply(some, a + row * a_stride, a_stride, column, tile);
            sink(tile, row, some, column);
        }
}

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
