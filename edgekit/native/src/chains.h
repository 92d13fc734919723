// u8s8 weights for CPUs that add products of bytes in 16 bits and saturate (pmaddubsw): the weights decide what may be added.
#pragma once

#include <vector>

#include "kernels.h"

namespace edgekit {

// A 16-bit sum of uint8 activations times weights cannot overflow, whatever the activations, while its positive weights
// add up to at most 128, and so do its negative ones: 255 * 128 < 2^15. Steps of a panel are grouped into chains of up to
// 4 that keep to this in each of their 32 sums; a chain is added up in 16 bits and widened to 32 once. A step that breaks
// it alone becomes two whose weights add up to it. No integer and no sum changes; shorter chains only take longer.
inline constexpr int most_in_sum = 128;
static_assert(chain_window % 4 == 0);

struct ChainedWeights {
    std::vector<char> packed;      // steps of 64 bytes, panel after panel
    std::vector<uint32_t> order;   // of each step: byte offset of the activations it meets
    std::vector<ChainedSteps> steps;
};

// Weights (out, in) row-major; outputs that pad the panels are zeros.
ChainedWeights chain(const int8_t* weight, int in, int out, int panels);

}  // namespace edgekit
