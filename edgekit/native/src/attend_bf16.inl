// Attention in bfloat16 tiles: scores q k^T and mixing p v are sums of float32, the softmax between them is float32.
//
// Probabilities have float's exponents, so what is taken off the scores of a query need not be their maximum: it is that of
// the first 64 keys, rounded up to an integer, which leaves the bits of a probability's mantissa as they are. A later score
// that exceeds it by 2^40 rescales its query's row. No tile of keys rescales another.

static constexpr int tile_queries = 2 * tile_rows, chunk_keys = 64, strip_chunks = 5;  // p of a strip stays in L1d
static constexpr float most_above = 40;

struct Bf16Layout {
    int dim, keys, key_tiles, value_tiles, value_panels;  // tiles of one panel
    size_t values, bytes;

    explicit Bf16Layout(const Attention& a)
        : dim(int(padded(a.dim, 32))), keys(int(padded(a.tokens, chunk_keys))), key_tiles(dim / 32), value_tiles(keys / 32),
          value_panels(dim / panel_outputs), values(size_t(keys / panel_outputs) * key_tiles * tile_bytes),
          bytes(values + size_t(value_panels) * value_tiles * tile_bytes) {}
};

struct Bf16Scratch {
    size_t query_stride, scores, probability_stride, probabilities, out_stride, out, rows, bytes;

    explicit Bf16Scratch(const Bf16Layout& h) {
        query_stride = h.dim * 2 + 64;
        scores = query_stride * tile_queries;
        probability_stride = strip_chunks * chunk_keys * 2 + 64;
        probabilities = scores + 2 * tile_queries * chunk_keys * sizeof(float);
        out_stride = h.dim + 16;
        out = probabilities + probability_stride * tile_queries;
        rows = out + out_stride * tile_queries * sizeof(float);
        bytes = rows + tile_queries * (LANES + 1) * sizeof(float);
    }
};

// Rows and columns of 16 x 16 values of 32 bits exchanged, in four rounds of exchanged squares.
template <int step, int... lane>
static inline void exchange(vi& a, vi& b, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
    const vi upper = __builtin_shufflevector(a, b, (lane & step ? 16 + lane - step : lane)...);
    b = __builtin_shufflevector(a, b, (lane & step ? 16 + lane : lane + step)...);
#else
    const vi upper = __builtin_shuffle(a, b, vi{(lane & step ? 16 + lane - step : lane)...});
    b = __builtin_shuffle(a, b, vi{(lane & step ? 16 + lane : lane + step)...});
#endif
    a = upper;
}
template <int step>
static inline void exchange_round(vi (&rows)[16]) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
        if (!(i & step)) exchange<step>(rows[i], rows[i + step], std::make_integer_sequence<int, 16>());
}
static inline void transpose(vi (&rows)[16]) {
    exchange_round<8>(rows), exchange_round<4>(rows), exchange_round<2>(rows), exchange_round<1>(rows);
}

// Keys as tiles of 16 keys x 32 channels, values as tiles of 32 tokens x 16 channels; what pads them is 0.
static inline void pack_bf16(const Attention& a, int image, int head, char* packed) {
    const Bf16Layout h(a);
    const float* k = a.qkv + size_t(image) * a.tokens * a.stride + a.width + head * a.dim;
    const float* v = k + a.width;
    for (int first = 0; first < h.keys; first += panel_outputs)
        for (int d = 0; d < h.dim; d += 32, packed += tile_bytes) {
            vi rows[panel_outputs];
            for (int i = 0; i < panel_outputs; ++i) {
                const float* from = k + (first + i) * a.stride + d;
                const bool there = first + i < a.tokens;
                rows[i] = there ? bf16_of(load_up_to(from, a.dim - d, 0), load_up_to(from + LANES, a.dim - d - LANES, 0)) : vi{};
            }
            transpose(rows);
            for (int i = 0; i < panel_outputs; ++i) store((int32_t*)(packed + i * step_bytes), rows[i]);
        }
    for (int d = 0; d < h.dim; d += panel_outputs)
        for (int token = 0; token < h.keys; token += 2, packed += step_bytes) {
            vf pair[2] = {};
            for (int i = 0; i < 2; ++i)
                if (token + i < a.tokens) pair[i] = load_up_to(v + (token + i) * a.stride + d, a.dim - d, 0);
            store((int32_t*)packed, bf16_pairs(pair[0], pair[1]));
        }
}

// One block of at most 32 queries of a head.
class Bf16Queries {
public:
    Bf16Queries(const Attention& attention, const char* keys, char* memory, int count)
        : a(attention), h(attention), s(h), packed(keys), scratch(memory), rows(count), two(count > tile_rows) {}

    void run(int image, int head, int first_row) {
        const size_t first = size_t(image) * a.tokens + first_row;
        load_queries(a.qkv + first * a.stride + head * a.dim);
        const TileScope scope;
        const int chunks = h.keys / chunk_keys;
        score(0);
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (chunk + 1 < chunks) score(chunk + 1);  // its products run while this chunk's exponentials do
            soften(chunk);
            if (chunk + 1 == chunks || (chunk + 1) % strip_chunks == 0) mix(chunk / strip_chunks * strip_chunks, chunk + 1);
        }
        for (int r = 0; r < rows; ++r) {
            const float inverse = 1 / sum_of(load(sums() + r * LANES));
            float* to = a.out + (first + r) * a.width + head * a.dim;
            for (int d = 0; d < a.dim; d += LANES) store_up_to(to + d, load(out(r) + d) * inverse, a.dim - d);
        }
    }

private:
    const Attention& a;
    const Bf16Layout h;
    const Bf16Scratch s;
    const char* packed;
    char* scratch;
    const int rows;
    const bool two;  // tiles of queries

    float* scores(int chunk, int row) const {
        return (float*)(scratch + s.scores) + ((chunk & 1) * tile_queries + row) * chunk_keys;
    }
    char* probabilities(int row) const { return scratch + s.probabilities + row * s.probability_stride; }
    float* out(int row) const { return (float*)(scratch + s.out) + row * s.out_stride; }
    float* sums() const { return (float*)(scratch + s.rows); }  // (32, LANES): lane by lane until the end
    float* shifts() const { return sums() + tile_queries * LANES; }

    // Scores become exponents of two: scale * log2(e) goes into the queries.
    void load_queries(const float* q) const {
        const float factor = a.scale * 1.4426950408889634f;
        char* to = scratch;
        for (int r = 0; r < (two ? 2 : 1) * tile_rows; ++r, q += a.stride, to += s.query_stride)
            for (int d = 0; d < h.dim; d += 32) {
                const vf low = r < rows ? load_up_to(q + d, a.dim - d, 0) * factor : vf{};
                const vf high = r < rows ? load_up_to(q + d + LANES, a.dim - d - LANES, 0) * factor : vf{};
                store((int32_t*)(to + d * 2), bf16_of(low, high));
            }
    }

    // C (32, 32) += the products of `tiles` tiles; without a second tile of queries its rows are left out.
    void dots(const char* x, size_t stride, const char* w, size_t panel_bytes, int tiles) const {
        const char* other = x + tile_rows * stride;
        for (int i = 0; i < tiles; ++i, x += tile_row_bytes, other += tile_row_bytes, w += tile_bytes) {
            tile_load<6>(w, tile_row_bytes), tile_load<7>(w + panel_bytes, tile_row_bytes);
            tile_load<4>(x, stride);
            tile_dot_bf16<0, 4, 6>(), tile_dot_bf16<1, 4, 7>();
            if (!two) continue;
            tile_load<5>(other, stride);
            tile_dot_bf16<2, 5, 6>(), tile_dot_bf16<3, 5, 7>();
        }
    }
    void store_sums(float* to, size_t stride) const {
        tile_store<0>(to, stride), tile_store<1>(to + panel_outputs, stride);
        if (!two) return;
        float* second = to + tile_rows * stride / sizeof(float);
        tile_store<2>(second, stride), tile_store<3>(second + panel_outputs, stride);
    }

    void score(int chunk) const {
        const size_t panel_bytes = h.key_tiles * tile_bytes;
        for (int key = 0; key < chunk_keys; key += columns) {
            tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
            const char* w = packed + (chunk * chunk_keys + key) / panel_outputs * panel_bytes;
            dots(scratch, s.query_stride, w, panel_bytes, h.key_tiles);
            store_sums(scores(chunk, 0) + key, chunk_keys * sizeof(float));
        }
    }

    // Scores of a chunk -> probabilities in their place of the strip, and their sums.
    void soften(int chunk) const {
        const int keys = a.tokens - chunk * chunk_keys;
        for (int r = 0; r < rows && keys < chunk_keys; ++r)
            for (int j = keys; j < chunk_keys; ++j) scores(chunk, r)[j] = -__builtin_inff();
        if (!chunk) begin();
        for (int r = 0; r < rows; ++r) {
            const float* from = scores(chunk, r);
            vf v[chunk_keys / LANES], high = splat(-__builtin_inff());
            for (int i = 0; i < chunk_keys / LANES; ++i) v[i] = load(from + i * LANES) - shifts()[r], high = larger(v[i], high);
            if (any_above(high, most_above)) {
                rescale(chunk, r);
                for (int i = 0; i < chunk_keys / LANES; ++i) v[i] = load(from + i * LANES) - shifts()[r];
            }
            vf total = load(sums() + r * LANES);
            for (vf& each : v) each = exp2_times<1>(each), total += each;
            store(sums() + r * LANES, total);
            int32_t* to = (int32_t*)(probabilities(r) + chunk % strip_chunks * chunk_keys * 2);
            for (int i = 0; i < chunk_keys / 32; ++i) store(to + i * LANES, bf16_of(v[2 * i], v[2 * i + 1]));
        }
    }

    // The shift of each query from its first scores; maxima of 16 queries at once.
    void begin() const {
        for (int first = 0; first < rows; first += tile_rows) {
            vi high[tile_rows];
            for (int r = 0; r < tile_rows; ++r) {
                const float* from = scores(0, first + r);
                vf v = load(from);
                for (int i = LANES; i < chunk_keys; i += LANES) v = larger(load(from + i), v);
                high[r] = (vi)v;
            }
            transpose(high);
            vf most = (vf)high[0];
            for (int i = 1; i < tile_rows; ++i) most = larger((vf)high[i], most);
            for (int r = 0; r < tile_rows; ++r) shifts()[first + r] = __builtin_ceilf(most[r]);
        }
        for (int i = 0; i < rows * LANES; i += LANES) store(sums() + i, vf{});
    }

    // A score far above the shift: what the query has so far shrinks by a power of two.
    __attribute__((noinline)) void rescale(int chunk, int r) const {
        vf high = load(scores(chunk, r));
        for (int i = LANES; i < chunk_keys; i += LANES) high = larger(load(scores(chunk, r) + i), high);
        const float shift = __builtin_ceilf(max_of(high));
        const vf factor = exp2_of(splat(shifts()[r] - shift));
        shifts()[r] = shift;
        store(sums() + r * LANES, load(sums() + r * LANES) * factor);
        if (chunk >= strip_chunks)
            for (int d = 0; d < h.dim; d += LANES) store(out(r) + d, load(out(r) + d) * factor);
        int32_t* strip = (int32_t*)probabilities(r);
        for (int i = 0; i < chunk % strip_chunks * chunk_keys / 2; i += LANES) {
            const vi pairs = load(strip + i);
            store(strip + i, bf16_pairs((vf)(pairs << 16) * factor, (vf)(pairs & ~0xffff) * factor));
        }
    }

    // out += the probabilities of chunks [first, last) times their values.
    void mix(int first, int last) const {
        const size_t panel_bytes = h.value_tiles * tile_bytes, stride = s.out_stride * sizeof(float);
        constexpr int chunk_tiles = chunk_keys / 32;
        for (int d = 0; d < h.dim; d += columns) {
            if (first) {
                tile_load<0>(out(0) + d, stride), tile_load<1>(out(0) + d + panel_outputs, stride);
                tile_load<2>(out(tile_rows) + d, stride), tile_load<3>(out(tile_rows) + d + panel_outputs, stride);
            } else {
                tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
            }
            const char* w = packed + h.values + d / panel_outputs * panel_bytes + first * chunk_tiles * tile_bytes;
            dots(probabilities(0), s.probability_stride, w, panel_bytes, (last - first) * chunk_tiles);
            store_sums(out(0) + d, stride);
        }
    }
};

struct Bf16Attention {
    static int query_rows(const Attention&) { return tile_queries; }
    static size_t head_bytes(const Attention& a) { return Bf16Layout(a).bytes; }
    static size_t scratch_bytes(const Attention& a) { return Bf16Scratch(Bf16Layout(a)).bytes; }
    static void pack(const Attention& a, int image, int head, char* packed) { pack_bf16(a, image, head, packed); }
    static void run(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
        Bf16Queries(a, packed, scratch, rows).run(image, head, first_row);
    }
};
