// int16 dot products of WebAssembly SIMD.

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) { return sum + (vi)wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)w); }
};
