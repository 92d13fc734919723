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
    int heaviest() const { return *std::max_element(of, of + 2 * sums); }
};

struct Step {
    int8_t weight[step_bytes] = {};
    uint32_t offset = 0;
    Load load;
    int heaviest = 0;

    // False where it alone could overflow.
    bool weigh() {
        for (int i = 0; i < sums; ++i) {
            int positive = 0, negative = 0;
            for (int w : {weight[2 * i], weight[2 * i + 1]}) (w < 0 ? negative : positive) += w < 0 ? -w : w;
            if (positive > most_in_sum || negative > most_in_sum) return false;
            load.of[i] = uint8_t(positive), load.of[sums + i] = uint8_t(negative);
        }
        heaviest = load.heaviest();
        return true;
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

std::vector<Step> steps_of(const int8_t* weight, int in, int out, int panel, int window) {
    std::vector<Step> steps;
    for (int first = window; first < std::min(in, window + chain_window); first += 4) {
        Step step;
        step.offset = uint32_t(first);
        for (int o = 0; o < std::min(panel_outputs, out - panel * panel_outputs); ++o)
            std::memcpy(step.weight + 4 * o, weight + size_t(panel * panel_outputs + o) * in + first, std::min(4, in - first));
        if (!step.weigh()) steps.push_back(step.split());
        steps.push_back(step);
    }
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.heaviest > b.heaviest; });
    return steps;
}

std::vector<Chain> chains_of(const std::vector<Step>& steps) {
    std::vector<Chain> full, open;
    for (const Step& step : steps) {
        auto chain = std::find_if(open.begin(), open.end(), [&](const Chain& c) { return c.load.fits(step.load); });
        if (chain == open.end()) chain = open.insert(chain, Chain());
        chain->load.add(step.load);
        chain->steps[chain->length++] = &step;
        if (chain->length == longest_chain) full.push_back(*chain), open.erase(chain);
    }
    full.insert(full.end(), open.begin(), open.end());
    std::stable_sort(full.begin(), full.end(), [](const Chain& a, const Chain& b) { return a.length > b.length; });
    return full;
}

}  // namespace

ChainedWeights chain(const int8_t* weight, int in, int out, int panels) {
    ChainedWeights all;
    for (int panel = 0; panel < panels; ++panel)
        for (int window = 0; window < in; window += chain_window) {
            const std::vector<Step> steps = steps_of(weight, in, out, panel, window);
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
