// Linear layers in AMX tiles of 16 rows of 64 bytes: tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.

// The configuration of all tiles, for as long as it lives. Runtimes that share the thread have tiles of their own: theirs is
// put back as it was, since some of them keep in mind what they have loaded.
class TileScope {
public:
    TileScope() {
        tile_config_store(before);
        tile_config_load(&ours);
    }
    ~TileScope() {
        if (before[0]) tile_config_load(before);
        else tile_release();  // a live state costs 8 KB at each context switch and keeps the core from deep sleep
    }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;

private:
    struct Config {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    static constexpr Config ours = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    static_assert(sizeof(Config) == 64);
    alignas(64) char before[64];
};

static constexpr int tile_rows = 16;
static constexpr size_t tile_bytes = 1024, tile_row_bytes = 64;

// Rows x 32 outputs at a time: of uint8 two tiles of rows, of int16 the low and the high bytes of one, whose sums are
// added as low + 256 * high in wrapping int32: exact, since what they add up to fits (Linear::levels).
template <Format layout>
struct TilePanels {
    using acc = vi;
    static constexpr Format format = layout;
    static constexpr bool planes = format == Format::s16s8_tiles;
    static constexpr int block_rows = planes ? tile_rows : 2 * tile_rows;
    static constexpr int blocks_at_once = 288 / block_rows;  // rows that share a pass over the weights
    static constexpr size_t slot_stride = columns * 4, slot_bytes = 2 * tile_rows * slot_stride;
    static_assert(columns == 2 * panel_outputs && LANES == panel_outputs);

    const Linear& linear;
    explicit TilePanels(const Linear& layer) : linear(layer) {}

    template <class Sink, class Ahead = Nothing>
    void multiply_rows(const char* a, size_t a_stride, int rows, Sink&& sink, Ahead&& ahead = {}) const {
        const TileScope scope;
        constexpr int most = blocks_at_once * block_rows;
        for (int first = 0; first < rows; first += most)
            multiply_pass(a + first * a_stride, a_stride, first, lesser(most, rows - first), sink, ahead);
    }

    static double ceiling(int rounds) {
        alignas(64) const char zeros[tile_bytes] = {};
        const TileScope scope;
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
        tile_load<4>(zeros, tile_row_bytes), tile_load<5>(zeros, tile_row_bytes);
        tile_load<6>(zeros, tile_row_bytes), tile_load<7>(zeros, tile_row_bytes);
        for (int i = 0; i < rounds; ++i) dots();
        return double(rounds) * 4 * tile_rows * panel_outputs * tile_row_bytes / (planes ? 2 : 1);
    }

private:
    // A finished block whose sink is still to run.
    struct Pending {
        char* slot = nullptr;
        int row = 0, rows = 0, column = 0;
    };

    static inline void dots() {
        tile_dot_u8s8<0, 4, 6>(), tile_dot_u8s8<1, 4, 7>();
        if constexpr (planes) tile_dot_s8s8<2, 5, 6>(), tile_dot_s8s8<3, 5, 7>();
        else tile_dot_u8s8<2, 5, 6>(), tile_dot_u8s8<3, 5, 7>();
    }

    // The sink of a block runs behind the products of the next: a tile that has just been stored is slow to read (58 cycles
    // each instead of 16), and vector work between products would halve its own speed.
    template <class Sink, class Ahead>
    void multiply_pass(const char* a, size_t a_stride, int first, int rows, Sink&& sink, Ahead&& ahead) const {
        alignas(64) char slots[blocks_at_once][slot_bytes];
        const size_t panel_bytes = linear.steps * step_bytes;
        const int tiles = linear.steps / tile_steps, blocks = (rows + block_rows - 1) / block_rows;
        // Weights of 32 outputs stay in L1d while all rows pass them: 24 KB at most, longer inputs come in chunks.
        const int chunks = tiles <= 12 ? 1 : (tiles + 7) / 8;
        Pending pending;
        int turn = 0;
        for (int column = 0; column < linear.padded_out(); column += columns) {
            const char* w = linear.packed + column / panel_outputs * panel_bytes;
            const char* next = column + columns < linear.padded_out() ? w + 2 * panel_bytes : nullptr;
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const int begin = tiles * chunk / chunks, end = tiles * (chunk + 1) / chunks;
                for (int block = 0; block < blocks; ++block) {
                    const int row = block * block_rows, some = lesser(block_rows, rows - row);
                    char* slot = slots[chunks > 1 ? block : turn++ & 1];
                    if (slot == pending.slot) finish(pending, sink);
                    if (!chunk) ahead(first + row, some, column);
                    if (next) fetch_part(next, 2 * panel_bytes, chunk * blocks + block, chunks * blocks);
                    multiply_block(a + row * a_stride + begin * tile_row_bytes, a_stride, w + begin * tile_bytes, panel_bytes,
                                   end - begin, chunk > 0, some > tile_rows, slot);
                    if (chunk + 1 < chunks) continue;
                    finish(pending, sink);
                    pending = {slot, first + row, some, column};
                }
            }
        }
        finish(pending, sink);
    }

    // Into L2, part after part while the panels before them are multiplied: weights that come from L3 cost 20 % less.
    static inline void fetch_part(const char* from, size_t bytes, int part, int parts) {
        const size_t begin = bytes * part / parts / 64 * 64, end = bytes * (part + 1) / parts / 64 * 64;
        for (size_t i = begin; i < end; i += 64) __builtin_prefetch(from + i, 0, 2);
    }

    // slot (block_rows, 32) = or, with `more`, += a (block_rows, tiles * 64 bytes) x w.
    void multiply_block(const char* a, size_t a_stride, const char* w, size_t panel_bytes, int tiles, bool more, bool two,
                        char* slot) const {
        char* const second = slot + tile_rows * slot_stride;
        const char* other = a + (planes ? linear.plane_bytes() : tile_rows * a_stride);
        if (more) {
            tile_load<0>(slot, slot_stride), tile_load<1>(slot + tile_row_bytes, slot_stride);
            tile_load<2>(second, slot_stride), tile_load<3>(second + tile_row_bytes, slot_stride);
        } else {
            tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
        }
        if (planes || two) {
            for (int i = 0; i < tiles; ++i, w += tile_bytes, a += tile_row_bytes, other += tile_row_bytes) {
                tile_load<6>(w, tile_row_bytes), tile_load<7>(w + panel_bytes, tile_row_bytes);
                tile_load<4>(a, a_stride), tile_load<5>(other, a_stride);
                dots();
            }
        } else {
            for (int i = 0; i < tiles; ++i, w += tile_bytes, a += tile_row_bytes) {
                tile_load<6>(w, tile_row_bytes), tile_load<7>(w + panel_bytes, tile_row_bytes);
                tile_load<4>(a, a_stride);
                tile_dot_u8s8<0, 4, 6>(), tile_dot_u8s8<1, 4, 7>();
            }
        }
        tile_store<0>(slot, slot_stride), tile_store<1>(slot + tile_row_bytes, slot_stride);
        tile_store<2>(second, slot_stride), tile_store<3>(second + tile_row_bytes, slot_stride);
    }

    template <class Sink>
    static inline void finish(Pending& pending, Sink&& sink) {
        if (!pending.slot) return;
        if constexpr (planes) {
            int32_t* low = (int32_t*)pending.slot;
            const int32_t* high = low + tile_rows * columns;
            for (int i = 0; i < pending.rows * columns; i += LANES) store(low + i, load(low + i) + (load(high + i) << 8));
        }
        sink(pending.slot, pending.row, pending.rows, pending.column);
        pending = {};
    }
};
