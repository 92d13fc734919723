// Features that an AArch64 CPU reports.
#pragma once

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__) || defined(__ANDROID__)
#include <sys/auxv.h>
#endif

namespace edgekit {

enum class ArmFeature { dotprod, i8mm };

static inline bool arm_has(ArmFeature feature) {
#if defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    const char* name = feature == ArmFeature::dotprod ? "hw.optional.arm.FEAT_DotProd" : "hw.optional.arm.FEAT_I8MM";
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
#elif defined(__linux__) || defined(__ANDROID__)
    // HWCAP_ASIMDDP and HWCAP2_I8MM of the kernel's ABI.
    return feature == ArmFeature::dotprod ? (getauxval(AT_HWCAP) >> 20) & 1 : (getauxval(AT_HWCAP2) >> 13) & 1;
#else
    (void)feature;
    return false;
#endif
}

}  // namespace edgekit
