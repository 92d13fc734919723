// Which instruction set runs: the best the CPU has, or the lower one that the environment variable EDGEKIT_ISA names.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

namespace edgekit {

// Best first.
static const Kernels* (*const units[])() = {
#if defined(__x86_64__) || defined(_M_X64)
    kernels_avx512vnni, kernels_avxvnni, kernels_avx2,
#elif defined(__aarch64__)
    kernels_neon_i8mm, kernels_neon_dotprod,
#endif
    kernels_base,
};

const Kernels* kernels_at(size_t i) { return i < sizeof units / sizeof *units ? units[i]() : nullptr; }
size_t kernels_count() { return sizeof units / sizeof *units; }

static const Kernels* choose() {
    const char* wanted = getenv("EDGEKIT_ISA");
    const Kernels* best = nullptr;
    for (size_t i = 0; i < kernels_count(); ++i) {
        const Kernels* kernels = kernels_at(i);
        if (!kernels) continue;
        if (!best) best = kernels;
        if (wanted && strcmp(wanted, kernels->name) == 0) return kernels;
    }
    return best;
}

const Kernels& active_kernels() {
    static const Kernels* const chosen = choose();
    return *chosen;
}

}  // namespace edgekit
