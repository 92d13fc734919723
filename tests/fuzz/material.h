// Sizes and arrays of a fuzzed case. Every array is exactly as long as the sizes say and in memory of its own, so that
// AddressSanitizer sees a read beyond it.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace fuzz {

// None of these is a size that the ops take, but 0 images or tokens.
constexpr int64_t strange_sizes[] = {0, -1, -(int64_t{1} << 31), INT64_MIN, INT64_MAX, int64_t{1} << 21,
                                     int64_t{1} << 31, int64_t{1} << 32, int64_t{1} << 40, int64_t{1} << 62};
constexpr float strange_floats[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity(), 3e38f, -3e38f, 1e-45f, 0.0f, -0.0f, 1e20f};

// One time in `in`.
inline bool rarely(FuzzedDataProvider& data, int in = 16) { return data.ConsumeIntegralInRange(0, in - 1) == in - 1; }

inline int64_t size(FuzzedDataProvider& data, int64_t least, int64_t most) {
    return rarely(data) ? data.PickValueInArray(strange_sizes) : data.ConsumeIntegralInRange(least, most);
}

inline float number(FuzzedDataProvider& data, float usual) {
    return rarely(data) ? data.PickValueInArray(strange_floats) : usual;
}

// Memory of a case, freed with it.
class Arrays {
public:
    explicit Arrays(FuzzedDataProvider& data) : data_(data) {}

    // Numbers about 1, one of them strange now and then; NULL now and then.
    float* floats(int64_t count, bool may_be_null = true) {
        if (may_be_null && rarely(data_, 64)) return nullptr;
        float* made = room<float>(count);
        uint32_t state = data_.ConsumeIntegral<uint16_t>();
        for (int64_t i = 0; i < length(count); ++i) made[i] = float(int32_t(state = state * 1664525u + 1013904223u)) / 2147483648.0f;
        if (length(count) && rarely(data_)) made[data_.ConsumeIntegralInRange<int64_t>(0, length(count) - 1)] = data_.PickValueInArray(strange_floats);
        return made;
    }

    int8_t* integers(int64_t count) {
        if (rarely(data_, 64)) return nullptr;
        int8_t* made = room<int8_t>(count);
        uint32_t state = data_.ConsumeIntegral<uint16_t>();
        const bool extreme = rarely(data_, 8);  // sums of products reach their ends
        for (int64_t i = 0; i < length(count); ++i) made[i] = extreme ? int8_t(-128) : int8_t((state = state * 1664525u + 1013904223u) >> 24);
        return made;
    }

    // Sizes that no op takes give arrays of one element, which must not be read.
    static int64_t length(int64_t count) { return count < 0 || count > most ? 1 : count; }

private:
    static constexpr int64_t most = int64_t{1} << 22;
    FuzzedDataProvider& data_;
    std::vector<std::unique_ptr<char[]>> kept_;

    template <class Element>
    Element* room(int64_t count) {
        kept_.emplace_back(new char[length(count) * sizeof(Element)]);
        return reinterpret_cast<Element*>(kept_.back().get());
    }
};

// a * b, and -1 where that is no size.
inline int64_t product(int64_t a, int64_t b) {
    int64_t result;
    return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &result) ? -1 : result;
}

}  // namespace fuzz
