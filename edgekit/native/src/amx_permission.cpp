// AMX as Linux and the CPU report it.
#include "amx_permission.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace edgekit {
namespace {

struct LinuxTiles {
    // AMX-BF16, AMX-TILE and AMX-INT8, and their state enabled by the system (XCR0 bits 17 and 18). Not
    // __builtin_cpu_supports: older compilers lack the names.
    static bool cpu() {
        unsigned a, b, c, d;
        if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
            return false;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // OSXSAVE: xgetbv exists
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        constexpr unsigned states = 3u << 17, features = 1u << 22 | 1u << 24 | 1u << 25;
        if ((low & states) != states) return false;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & features) != features) return false;
        return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);  // AVX512-BF16
    }
    static bool supported() {
        unsigned long features = 0;
        return syscall(SYS_arch_prctl, get_supported, &features) == 0 && (features >> tile_data & 1);
    }
    static bool request() { return syscall(SYS_arch_prctl, request_permission, tile_data) == 0; }

private:
    static constexpr long get_supported = 0x1021, request_permission = 0x1023;  // ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM
    static constexpr unsigned long tile_data = 18;                             // XFEATURE_XTILE_DATA
};

}  // namespace

bool amx_possible() { return TilePermission<LinuxTiles>::possible(); }
bool amx_request() { return TilePermission<LinuxTiles>::request(); }

}  // namespace edgekit
#else
namespace edgekit {
bool amx_possible() { return false; }
bool amx_request() { return false; }
}  // namespace edgekit
#endif
