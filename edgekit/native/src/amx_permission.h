// Whether tiles may be used. Linux gives a process the state of AMX only when asked (arch_prctl, since 5.16): before that
// the first tile instruction on data is SIGILL, so tiles are never tried out. The answer is no where a thread has a signal
// stack too small for the state; and once it is yes, small signal stacks are refused to the host program. Therefore the
// question is put once, and only when this instruction set is about to be used.
#pragma once

namespace edgekit {

// `System` answers cpu(), supported() and request(); nothing here is a shared function of several units.
template <class System>
struct TilePermission {
    // Neither the CPU nor the system lacks tiles, and none has been refused.
    static bool possible() {
        return __atomic_load_n(&refused, __ATOMIC_ACQUIRE) == 0 && System::cpu() && System::supported();
    }
    static bool request() {
        const bool granted = possible() && System::request();
        if (!granted) __atomic_store_n(&refused, 1, __ATOMIC_RELEASE);
        return granted;
    }

private:
    static inline int refused = 0;
};

// AMX permission of this system, in amx_permission.cpp: the unit itself is compiled for a CPU that this one need not be.
bool amx_possible();
bool amx_request();

}  // namespace edgekit
