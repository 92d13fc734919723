// Choice of the instruction set: the best the CPU has, or the one that the environment variable EDGEKIT_ISA names.
#include <stdlib.h>
#include <string.h>

#include <string>

#include "kernels.h"

// The builds make EDGEKIT_UNITS from isas.json: UNIT(name) or TEST_UNIT(name) of each row for this machine, best first.
#if !defined(EDGEKIT_UNITS)
#error "EDGEKIT_UNITS is not defined: build with CMake or python -m edgekit.native.build, which read isas.json"
#endif

namespace edgekit {

// Each is null where the CPU or the system lacks what it needs; none of them asks the system for anything.
#define UNIT(name) const Kernels* kernels_##name();
#define TEST_UNIT(name) UNIT(name)
EDGEKIT_UNITS
#undef UNIT
#undef TEST_UNIT

namespace {

struct Unit {
    const Kernels* (*kernels)();
    bool tests_only;
};

#define UNIT(name) {kernels_##name, false},
#define TEST_UNIT(name) {kernels_##name, true},
constexpr Unit units[] = {EDGEKIT_UNITS};
#undef UNIT
#undef TEST_UNIT

bool entered(const Kernels* kernels) { return kernels && (!kernels->enter || kernels->enter()); }

// A unit that stands above the one EDGEKIT_ISA names is not entered: EDGEKIT_ISA=avx512vnni never asks for AMX.
const Kernels* choose() {
    const char* wanted = getenv("EDGEKIT_ISA");
    for (const Unit& unit : units) {
        const Kernels* kernels = unit.kernels();
        if (wanted && kernels && strcmp(wanted, kernels->name) == 0 && entered(kernels)) return kernels;
    }
    for (const Unit& unit : units)
        if (const Kernels* kernels = unit.tests_only ? nullptr : unit.kernels(); entered(kernels)) return kernels;
    abort();  // a library without isa_base.cpp, which runs everywhere
}

}  // namespace

const Kernels& active_kernels() {
    static const Kernels* const chosen = choose();
    return *chosen;
}

const char* kernels_available() {
    active_kernels();  // a unit that was entered and refused is no longer there
    static const std::string names = [] {
        std::string all;
        for (const Unit& unit : units)
            if (const Kernels* kernels = unit.tests_only ? nullptr : unit.kernels())
                all += (all.empty() ? "" : " ") + std::string(kernels->name);
        return all;
    }();
    return names.c_str();
}

}  // namespace edgekit
