// The inner loop over chains (chains.h): the weights of a chain stay in registers while all rows pass them, and the 32-bit
// sums in the tile, which a chain touches once.

template <class Dot>
concept Chained = requires { typename Dot::narrow; };

// tile (rows, columns) += a x w of `count` chains of `length` steps.
template <class Dot, int length>
static inline void multiply_chains(int count, int rows, const char* a, size_t a_stride, const char*& w, const uint32_t*& order,
                                   char* tile) {
    for (; count > 0; --count, w += length * step_bytes, order += length) {
        vi weights[length][VECTORS];
        size_t offsets[length];
#pragma GCC unroll 8
        for (int s = 0; s < length; ++s) {
            offsets[s] = order[s];
            __builtin_prefetch(w + weights_ahead + s * step_bytes);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) __builtin_memcpy(&weights[s][v], w + s * step_bytes + v * sizeof(vi), sizeof(vi));
        }
        const char* row = a;
        char* to = tile;
        for (int r = 0; r < rows; ++r, row += a_stride, to += VECTORS * sizeof(vi)) {
            typename Dot::narrow narrow[VECTORS];
#pragma GCC unroll 8
            for (int s = 0; s < length; ++s) {
                int32_t group;
                __builtin_memcpy(&group, row + offsets[s], 4);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) {
                    const auto products = Dot::products(splat(group), weights[s][v]);
                    narrow[v] = s ? narrow[v] + products : products;
                }
            }
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) {
                vi sum;
                __builtin_memcpy(&sum, to + v * sizeof(vi), sizeof sum);
                sum += Dot::widened(narrow[v]);
                __builtin_memcpy(to + v * sizeof(vi), &sum, sizeof sum);
            }
        }
    }
}

// Chains of 4 in registers alone.
template <Chained Dot>
static __attribute__((noinline)) double ceiling_of(int rounds) {
    vi sums[12] = {};
    vi a = splat(0x01010101), w = a;
    for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < 12; j += 3) {
            typename Dot::narrow narrow[3];
#pragma GCC unroll 4
            for (int s = 0; s < longest_chain; ++s) {
#pragma GCC unroll 3
                for (int k = 0; k < 3; ++k) {
                    __asm__ volatile("" : "+" VECTOR_REGISTER(a));  // else the product of constants leaves the loop
                    const auto products = Dot::products(a, w);
                    narrow[k] = s ? narrow[k] + products : products;
                    __asm__ volatile("" : "+" VECTOR_REGISTER(narrow[k]));
                }
            }
#pragma GCC unroll 3
            for (int k = 0; k < 3; ++k) {
                sums[j + k] += Dot::widened(narrow[k]);
                __asm__ volatile("" : "+" VECTOR_REGISTER(sums[j + k]));
            }
        }
    }
    return double(rounds) * 12 * longest_chain * LANES * Dot::group;
}

template <Chained Dot>
struct ChainedPanels {
    using acc = vi;
    static constexpr Format format = Format::u8s8_chained;
    static constexpr int most_rows = 48;
    const Linear& linear;

    explicit ChainedPanels(const Linear& layer) : linear(layer) {}

    template <class Sink, class Ahead = Nothing>
    void multiply_rows(const char* a, size_t a_stride, int rows, Sink&& sink, Ahead&& ahead = {}) const {
        // As many rows as stay in L1d beside the weights of a window.
        const int at_once = lesser(int(20480 / (a_stride < chain_window ? a_stride : chain_window)), most_rows);
        auto multiply = [&](int row, int some, int column, char* tile) {
            multiply_panel(some, a + row * a_stride, a_stride, column, tile);
        };
        tile_by_tile<most_rows>(at_once, linear.panels, rows, multiply, sink, ahead);
    }
    static double ceiling(int rounds) { return ceiling_of<Dot>(rounds); }

private:
    // Not inlined: with the registers of its caller it has too few.
    __attribute__((noinline)) void multiply_panel(int rows, const char* a, size_t a_stride, int column, char* tile) const {
        static_assert(sizeof(typename Dot::narrow) == sizeof(vi) && columns == panel_outputs && longest_chain == 4);
        __builtin_memset(tile, 0, rows * columns * sizeof(int32_t));
        const int windows = linear.windows();
        for (int i = 0; i < windows; ++i) {
            const ChainedSteps& steps = linear.chained[column / panel_outputs * windows + i];
            const char* w = linear.packed + steps.first * step_bytes;
            const uint32_t* order = linear.order + steps.first;
            multiply_chains<Dot, 4>(int(steps.chains[3]), rows, a, a_stride, w, order, tile);
            multiply_chains<Dot, 3>(int(steps.chains[2]), rows, a, a_stride, w, order, tile);
            multiply_chains<Dot, 2>(int(steps.chains[1]), rows, a, a_stride, w, order, tile);
            multiply_chains<Dot, 1>(int(steps.chains[0]), rows, a, a_stride, w, order, tile);
        }
    }
};
