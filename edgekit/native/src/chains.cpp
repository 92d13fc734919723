// Groups the steps of a panel into chains: first fit, heaviest steps first.
#include "chains.h"

#include <algorithm>
#include <cstring>

namespace edgekit {
namespace {

constexpr int sums = step_bytes / 2;  // of 16 bits in a step

// Sums of the positive weights of each chain, then of its negative ones.
struct Load {
    uint8_t of[2 * sums] = {};

    bool fits(const Load& other) const {
        uint8_t over = 0;  // in bytes throughout, which compilers make vectors of
        for (int i = 0; i < 2 * sums; ++i) {
            const uint8_t room = uint8_t(most_in_sum - other.of[i]);
            over |= uint8_t(std::max(of[i], room) ^ room);
        }
        return !over;
    }
    void add(const Load& other) {
        for (int i = 0; i < 2 * sums; ++i) of[i] += other.of[i];
    }
    int heaviest() const {
        uint8_t most = 0;
        for (uint8_t each : of) most = std::max(most, each);
        return most;
    }
};

struct Step {
    int8_t weight[step_bytes] = {};
    uint32_t offset = 0;
    Load load;
    int heaviest = 0;

    // False where it alone could overflow.
    bool weigh() {
        int16_t most = 0;
        for (int i = 0; i < sums; ++i) {  // in 16 bits throughout, for the same reason
            int16_t pair;
            std::memcpy(&pair, weight + 2 * i, 2);
            const int16_t low = int16_t(int16_t(uint16_t(pair) << 8) >> 8), high = int16_t(pair >> 8), none = 0;
            const int16_t positive = int16_t(std::max(low, none) + std::max(high, none));
            const int16_t negative = int16_t(-std::min(low, none) - std::min(high, none));
            most = std::max(most, std::max(positive, negative));
            load.of[i] = uint8_t(positive), load.of[sums + i] = uint8_t(negative);
        }
        heaviest = most;
        return most <= most_in_sum;
    }

    // Takes half of the weights away, into the step returned.
    Step split() {
        Step half = *this;
        for (size_t i = 0; i < step_bytes; ++i) half.weight[i] = int8_t(weight[i] / 2), weight[i] = int8_t(weight[i] - half.weight[i]);
        weigh(), half.weigh();
        return half;
    }
};

struct Chain {
    Load load;
    int length = 0;
    const Step* steps[longest_chain];
};

void steps_of(const int8_t* weight, int in, int out, int panel, int window, std::vector<Step>& steps) {
    steps.clear();
    for (int first = window; first < std::min(in, window + chain_window); first += 4) {
        Step step;
        step.offset = uint32_t(first);
        for (int o = 0; o < std::min(panel_outputs, out - panel * panel_outputs); ++o)
            std::memcpy(step.weight + 4 * o, weight + size_t(panel * panel_outputs + o) * in + first, std::min(4, in - first));
        if (!step.weigh()) steps.push_back(step.split());
        steps.push_back(step);
    }
}

// The steps in order of their heaviest sum, the heaviest first, by counting.
std::vector<const Step*> sorted(const std::vector<Step>& steps) {
    int places[most_in_sum + 2] = {};
    for (const Step& step : steps) ++places[most_in_sum - step.heaviest + 1];
    for (int i = 0; i <= most_in_sum; ++i) places[i + 1] += places[i];
    std::vector<const Step*> order(steps.size());
    for (const Step& step : steps) order[size_t(places[most_in_sum - step.heaviest]++)] = &step;
    return order;
}

// The longest first.
std::vector<Chain> chains_of(const std::vector<Step>& steps) {
    std::vector<Chain> chains, open;
    for (const Step* step : sorted(steps)) {
        auto chain = std::find_if(open.begin(), open.end(), [&](const Chain& c) { return c.load.fits(step->load); });
        if (chain == open.end()) chain = open.insert(chain, Chain());
        chain->load.add(step->load);
        chain->steps[chain->length++] = step;
        if (chain->length == longest_chain) chains.push_back(*chain), open.erase(chain);
    }
    for (int length = longest_chain - 1; length; --length)
        for (const Chain& chain : open)
            if (chain.length == length) chains.push_back(chain);
    return chains;
}

}  // namespace

ChainedWeights chain(const int8_t* weight, int in, int out, int panels) {
    ChainedWeights all;
    all.packed.reserve(size_t(panels) * panel_outputs * size_t(in + 3) * 9 / 8);  // some steps are split
    std::vector<Step> steps;
    for (int panel = 0; panel < panels; ++panel)
        for (int window = 0; window < in; window += chain_window) {
            steps_of(weight, in, out, panel, window, steps);
            ChainedSteps chained = {uint32_t(all.order.size()), {}};
            for (const Chain& each : chains_of(steps)) {
                ++chained.chains[each.length - 1];
                for (int i = 0; i < each.length; ++i) {
                    const char* weights = reinterpret_cast<const char*>(each.steps[i]->weight);
                    all.packed.insert(all.packed.end(), weights, weights + step_bytes);
                    all.order.push_back(each.steps[i]->offset);
                }
            }
            all.steps.push_back(chained);
        }
    return all;
}

}  // namespace edgekit
