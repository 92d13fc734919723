// How many tasks, and the slots of their memory.
#include "tasks.h"

#if !defined(__wasm__)
#include <thread>
#endif

namespace edgekit {

// Vectors of dot products: some 48 rows pay for reading the weights, twice as many where weights are floats, and a multiple
// of 4 parts keeps 2 and 4 threads busy. Tiles multiply so fast that 64 rows cost 10 % more than all rows at once: as many
// parts as threads, of 288 rows at most.
int64_t parts_of(int64_t rows, const Kernels& kernels, Format format, const edgekit_threads* threads) {
    if (is_tiled(format)) {
        const int64_t units = (rows + kernels.row_multiple - 1) / kernels.row_multiple;
        const int64_t workers = !threads ? 1 : threads->threads ? std::min<int64_t>(threads->threads, 1024) : 4;
        const int64_t least = (units + 8) / 9;
        if (least > workers) return (least + workers - 1) / workers * workers;
        return std::max<int64_t>(1, std::min(workers, units / 2));
    }
    const int64_t enough = format == Format::f32 ? 96 : 48, parts = (rows + enough - 1) / enough;
    return parts < 4 ? std::min<int64_t>(std::max<int64_t>(1, rows / 8), 4) : (parts + 3) / 4 * 4;
}

Slots::Slots(char* memory, size_t bytes_each, int count)
    : memory_(memory), bytes_each_(bytes_each), count_(count), taken_(new std::atomic<bool>[size_t(count)]()) {}

char* Slots::take() {
    for (;;) {
        for (int i = 0; i < count_; ++i)
            if (!taken_[i].exchange(true, std::memory_order_acquire)) return memory_ + size_t(i) * bytes_each_;
#if !defined(__wasm__)
        std::this_thread::yield();
#endif
    }
}

void Slots::give(char* piece) { taken_[size_t(piece - memory_) / bytes_each_].store(false, std::memory_order_release); }

}  // namespace edgekit
