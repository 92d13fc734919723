// AMX as Linux and the CPU report it.
#include "amx_permission.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu_x86.h"

namespace edgekit {
namespace {

struct LinuxTiles {
    static bool cpu() { return x86_has(X86Feature::amx); }
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
