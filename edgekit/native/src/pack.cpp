// Checks a block's constants and packs its weights.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "block.h"

namespace edgekit {

static constexpr int64_t most_width = 1 << 14, most_hidden = 1 << 16, most_heads = 1 << 10, most_head_dim = 1024;

static constexpr int last_mode = EDGEKIT_BF16;

static constexpr size_t huge_page = size_t{1} << 21;

Memory::Memory(size_t bytes) : alignment_(bytes < huge_page / 2 ? 64 : huge_page) {
    // Whole huge pages where that wastes little: a block of 2.1 MB would take 4, of all twelve twice the model's memory.
    bytes = rounded(bytes, rounded(bytes, alignment_) - bytes <= bytes / 8 ? alignment_ : 64);
    data_ = static_cast<char*>(::operator new(bytes, std::align_val_t(alignment_)));
#if defined(__linux__)
    if (alignment_ == huge_page) madvise(data_, bytes, MADV_HUGEPAGE);   // advisory; failure is harmless
#endif
    std::memset(data_, 0, bytes);
}

Memory::~Memory() { ::operator delete(data_, std::align_val_t(alignment_)); }

PackedLinear::PackedLinear(const edgekit_linear& linear, int in, int out, Format format) : from(linear) {
    const int group = format == Format::f32 ? 1 : format == Format::s16s16 ? 2 : 4;
    view.in = in, view.out = out, view.format = format;
    view.steps = int(rounded((in + group - 1) / group, is_tiled(format) ? tile_steps : 1));
    view.panels = int(rounded(out, 32)) / panel_outputs;
    if (format == Format::u8s8_chained) {
        chained = chain(from.weight, in, out, view.panels);
        weight_bytes = rounded(chained.packed.size() + chained.steps.size() * sizeof(ChainedSteps) + chained.order.size() * 4, 64);
    } else {
        weight_bytes = size_t(view.panels) * view.steps * step_bytes;
    }
}

size_t PackedLinear::bytes() const { return weight_bytes + view.padded_out() * 4 * sizeof(float); }

void PackedLinear::pack(bool quality, const float* gain, char* memory) {
    float* scale = reinterpret_cast<float*>(memory + weight_bytes);
    float *bias = scale + view.padded_out(), *gains = bias + view.padded_out();
    int32_t* sums = reinterpret_cast<int32_t*>(gains + view.padded_out());
    view.packed = memory, view.scale = scale, view.bias = bias, view.sums = sums;
    std::copy_n(from.bias, view.out, bias);
    if (gain) std::copy_n(gain, view.out, gains), view.gain = gains;
    if (view.format == Format::f32) return pack_floats(reinterpret_cast<float*>(memory));
    if (view.format == Format::u8s8_chained) pack_chains(memory);
    else pack_integers(memory);
    count(quality, scale, sums);
}

void PackedLinear::pack_floats(float* packed) {
    for (int i = 0; i < view.in; ++i)
        for (int o = 0; o < view.out; ++o)
            packed[(size_t(o / panel_outputs) * view.in + i) * panel_outputs + o % panel_outputs] = from.exact[size_t(i) * view.out + o];
}

void PackedLinear::pack_integers(char* packed) {
    const int group = view.format == Format::s16s16 ? 2 : 4;
    for (int o = 0; o < view.out; ++o) {
        const int8_t* row = from.weight + size_t(o) * view.in;
        char* to = packed + size_t(o / panel_outputs) * view.steps * step_bytes + o % panel_outputs * 4;
        for (int i = 0; i < view.in; ++i) {
            char* at = to + i / group * step_bytes;
            if (group == 4) {
                reinterpret_cast<int8_t*>(at)[i % 4] = row[i];
            } else {
                const int16_t wide = row[i];
                std::memcpy(at + i % 2 * 2, &wide, 2);
            }
        }
    }
}

void PackedLinear::pack_chains(char* memory) {
    const auto append = [&memory](const auto& values) {
        const void* to = std::memcpy(memory, values.data(), values.size() * sizeof values[0]);
        memory += values.size() * sizeof values[0];
        return to;
    };
    view.packed = static_cast<const char*>(append(chained.packed));
    view.chained = static_cast<const ChainedSteps*>(append(chained.steps));
    view.order = static_cast<const uint32_t*>(append(chained.order));
    chained = {};
}

void PackedLinear::count(bool quality, float* scale, int32_t* sums) {
    int64_t longest = 1;
    for (int o = 0; o < view.out; ++o) {
        const int8_t* row = from.weight + size_t(o) * view.in;
        int32_t sum = 0, length = 0;  // of 2^16 inputs at most
        for (int i = 0; i < view.in; ++i) sum += row[i], length += row[i] < 0 ? -row[i] : row[i];
        sums[o] = sum, scale[o] = from.scale[o];
        longest = length > longest ? length : longest;
    }
    view.levels = quality ? int(std::min<int64_t>(32767, ((int64_t{1} << 31) - 1) / longest)) : 0;
}

GatedLinear::GatedLinear(const edgekit_linear& from, int in, int hidden, const float* gain, int columns)
    : out(2 * int(rounded(hidden, panel_outputs))), scale(out), bias(out) {
    const int half = columns / 2;
    if (from.exact) exact.resize(size_t(in) * out);
    else weight.resize(size_t(in) * out);
    for (int o = 0; o < out; ++o) {
        const int channel = o / columns * half + o % half;
        if (channel >= hidden) continue;
        const bool is_value = o % columns >= half;
        const int source = channel + (is_value ? hidden : 0);
        const float factor = is_value && gain ? gain[channel] : 1;
        bias[o] = from.bias[source] * factor;
        if (from.exact) {
            for (int i = 0; i < in; ++i) exact[size_t(i) * out + o] = from.exact[size_t(i) * 2 * hidden + source] * factor;
        } else {
            scale[o] = from.scale[source] * factor;
            std::copy_n(from.weight + size_t(source) * in, in, weight.data() + size_t(o) * in);
        }
    }
    view = {weight.data(), scale.data(), bias.data(), exact.data()};
}

static std::string number(int64_t value) { return std::to_string(value); }

// By the bits of the exponents, all of them: compilers make vectors of that, not of a search.
bool all_finite(const float* values, int64_t count) {
    uint32_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        found |= uint32_t((bits & 0x7f800000u) == 0x7f800000u);
    }
    return !found;
}

std::string problem_of(const edgekit_block_spec& s) {
    if (s.width < 1 || s.width > most_width) return "width " + number(s.width) + " is not in 1.." + number(most_width);
    if (s.hidden < 1 || s.hidden > most_hidden) return "hidden width " + number(s.hidden) + " is not in 1.." + number(most_hidden);
    if (s.heads < 1 || s.heads > most_heads) return "num_heads " + number(s.heads) + " is not in 1.." + number(most_heads);
    if (s.width % s.heads) return "width " + number(s.width) + " is not a multiple of num_heads " + number(s.heads);
    if (s.width / s.heads > most_head_dim) return "head dimension " + number(s.width / s.heads) + " is above " + number(most_head_dim);
    if (!std::isfinite(s.scale)) return "scale is not finite";
    if (!(s.epsilon >= 0) || !std::isfinite(s.epsilon)) return "epsilon is not a finite number of at least 0";
    const bool exact = s.tier == EDGEKIT_EXACT;
    if (s.tier != EDGEKIT_SPEED && s.tier != EDGEKIT_QUALITY && !exact)
        return "tier " + number(s.tier) + " is neither speed nor quality nor exact";
    if (s.attention < -1 || s.attention > last_mode) return "attention mode " + number(s.attention) + " is not in -1.." + number(last_mode);
    if (s.activation != EDGEKIT_GELU && s.activation != EDGEKIT_SWIGLU)
        return "activation " + number(s.activation) + " is neither GELU nor SwiGLU";
    for (const float* norm : {s.norm1_weight, s.norm1_bias, s.norm2_weight, s.norm2_bias}) {
        if (!norm) return "a norm's weight or bias is missing";
        if (!all_finite(norm, s.width)) return "a norm's weight or bias has values that are not finite";
    }
    if (s.fc2_gain && !all_finite(s.fc2_gain, s.hidden)) return "fc2_gain has values that are not finite";
    const struct { const char* name; const edgekit_linear& linear; int64_t in, out; } linears[] = {
        {"qkv", s.qkv, s.width, 3 * s.width}, {"proj", s.proj, s.width, s.width},
        {"fc1", s.fc1, s.width, s.activation == EDGEKIT_SWIGLU ? 2 * s.hidden : s.hidden},    {"fc2", s.fc2, s.hidden, s.width}};
    for (const auto& l : linears) {
        if (exact || l.linear.exact) {
            if (!l.linear.exact || !l.linear.bias) return std::string(l.name) + " has no weight or bias";
            if (!all_finite(l.linear.exact, l.in * l.out) || !all_finite(l.linear.bias, l.out))
                return std::string(l.name) + " has a weight or bias that is not finite";
            continue;
        }
        if (!l.linear.weight || !l.linear.scale || !l.linear.bias) return std::string(l.name) + " has no weight, scale or bias";
        if (!all_finite(l.linear.scale, l.out) || !all_finite(l.linear.bias, l.out))
            return std::string(l.name) + " has a scale or bias that is not finite";
        // uint8 products of one output must stay within int32 whatever the input.
        if (l.in > (int64_t{1} << 31) / (255 * 128)) return std::string(l.name) + " has too many inputs for int32 sums";
    }
    return "";
}

std::string problem_of(const Attention& a, int64_t batch, int64_t tokens, int64_t width, int64_t heads) {
    if (batch < 0 || batch > (1 << 20)) return "batch " + number(batch) + " is not in 0.." + number(1 << 20);
    if (tokens < 0 || tokens > (1 << 20)) return "tokens " + number(tokens) + " is not in 0.." + number(1 << 20);
    if (width < 1 || width > most_width) return "width " + number(width) + " is not in 1.." + number(most_width);
    if (heads < 1 || heads > most_heads) return "num_heads " + number(heads) + " is not in 1.." + number(most_heads);
    if (width % heads) return "width " + number(width) + " is not a multiple of num_heads " + number(heads);
    if (width / heads > most_head_dim) return "head dimension " + number(width / heads) + " is above " + number(most_head_dim);
    if (!std::isfinite(a.scale)) return "scale is not finite";
    if (a.mode < 0 || a.mode > last_mode) return "attention mode " + number(a.mode) + " is not in 0.." + number(last_mode);
    return "";
}

std::string problem_of(const edgekit_rope& rope, int64_t tokens, int64_t dim) {
    if (dim % 2) return "rotary positions need an even head dimension, not " + number(dim);
    if (rope.tokens < 0 || rope.tokens > tokens)
        return "rotary positions of " + number(rope.tokens) + " tokens do not belong to " + number(tokens) + " tokens";
    if (rope.tokens && (!rope.cos || !rope.sin)) return "cos or sin of the rotary positions is NULL";
    return "";
}

}  // namespace edgekit
