/* C interface of edgekit's fused vision-transformer ops: no dependency, no thread of its own, safe from any thread. */
#ifndef EDGEKIT_OPS_H
#define EDGEKIT_OPS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EDGEKIT_API __declspec(dllexport)
#else
#define EDGEKIT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* 0 is success; otherwise edgekit_last_error() holds a sentence until the next call of the same thread. Checked are: pointers
   that are NULL where they may not be, sizes, enumerators, and that every constant of a block is finite. Not checked, as it
   cannot be: that arrays are as long as the sizes say, and that a block has not been destroyed. */
typedef enum { EDGEKIT_OK = 0, EDGEKIT_INVALID = 1, EDGEKIT_NO_MEMORY = 2 } edgekit_status;
/* Activations per token as uint8 or as int16, weights int8; weights and activations both float32. */
typedef enum { EDGEKIT_SPEED = 0, EDGEKIT_QUALITY = 1, EDGEKIT_EXACT = 2 } edgekit_tier;
/* Products of scores and of mixing: float32; 8 bits and 16; 8 bits; 16 bits; bfloat16 summed in float32 (where the instruction
   set has no such tiles: float32). edgekit/native/reference.py has the levels. */
typedef enum { EDGEKIT_F32 = 0, EDGEKIT_HYBRID = 1, EDGEKIT_U8 = 2, EDGEKIT_I16 = 3, EDGEKIT_BF16 = 4 } edgekit_attention_mode;

/* The host's thread pool: `run` calls task(argument, i) once for each i < count, in any order, and returns after all. */
typedef struct {
    void* pool;
    void (*run)(void* pool, void (*task)(void* argument, size_t i), size_t count, void* argument);
    size_t threads; /* that `run` uses; 0 = unknown */
} edgekit_threads;

/* The middle of the feed-forward part: gelu(fc1 x), or silu(a) * b with (a, b) = fc1 x, which then has 2 * hidden outputs. */
typedef enum { EDGEKIT_GELU = 0, EDGEKIT_SWIGLU = 1 } edgekit_activation;

/* Rotary positions of the last `tokens` tokens of every image; the tokens before them are not rotated. cos and sin are
   (tokens, head dimension / 2): channels d and d + head dimension / 2 of each head's query and key turn by the d-th angle. */
typedef struct {
    const float *cos, *sin;
    int64_t tokens;
} edgekit_rope;

/* y = x W^T + b: int8 weight (out, in) row-major, float scale and bias (out).
   EDGEKIT_EXACT, and one linear layer of another tier that has `exact`: y = x E + b with the float matrix (in, out) row-major;
   weight and scale are not read. */
typedef struct {
    const int8_t* weight;
    const float* scale;
    const float* bias;
    const float* exact;
} edgekit_linear;

typedef struct {
    int64_t width, hidden, heads;
    float scale;        /* multiplies q k^T; 1 once folded into the queries */
    float epsilon;      /* of both norms */
    int32_t tier;       /* edgekit_tier */
    int32_t attention;  /* edgekit_attention_mode; -1 = the tier's: EDGEKIT_HYBRID, EDGEKIT_I16 (with AMX both EDGEKIT_BF16), EDGEKIT_F32 */
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    edgekit_linear qkv, proj, fc1, fc2;
    const float* fc2_gain; /* (hidden) or NULL */
    int32_t activation;    /* edgekit_activation */
} edgekit_block_spec;

typedef struct edgekit_block edgekit_block;

EDGEKIT_API const char* edgekit_version(void);    /* digest of the sources this library was built from */
EDGEKIT_API const char* edgekit_isa(void);        /* the instruction set in use, EDGEKIT_ISA may lower it */
EDGEKIT_API const char* edgekit_isas(void);       /* all that this CPU can run, best first, separated by spaces */
EDGEKIT_API const char* edgekit_last_error(void);

/* Copies and packs the weights; nothing of `spec` is needed afterwards. */
EDGEKIT_API int edgekit_block_create(const edgekit_block_spec* spec, edgekit_block** block);
EDGEKIT_API void edgekit_block_destroy(edgekit_block* block);
/* x and y (batch, tokens, width); they may be the same memory. threads == NULL runs in the calling thread, rope == NULL
   rotates nothing. */
EDGEKIT_API int edgekit_block_run(const edgekit_block* block, const float* x, float* y, int64_t batch, int64_t tokens,
                                  const edgekit_threads* threads, const edgekit_rope* rope);
/* qkv (batch, tokens, 3 * width) -> out (batch, tokens, width). */
EDGEKIT_API int edgekit_attention_run(const float* qkv, float* out, int64_t batch, int64_t tokens, int64_t width,
                                      int64_t heads, float scale, int32_t mode, const edgekit_threads* threads,
                                      const edgekit_rope* rope);
/* Multiply-accumulates per second (1e9) of this ISA's dot instruction alone, in registers: the ceiling. Both return 0, and
   edgekit_last_error() says why, for arguments out of range: tiers, 2 to 8 bits, 1 to 65536 rows, inputs and outputs. */
EDGEKIT_API double edgekit_ceiling_gmacs(int32_t tier);
/* The same of the block's GEMM kernel, repeated for about 0.3 s on (rows, in) x (out, in), normal weights of 7 or 8 bits. */
EDGEKIT_API double edgekit_gemm_gmacs(int32_t tier, int32_t weight_bits, int64_t rows, int64_t in, int64_t out);

#ifdef __cplusplus
}
#endif
#endif
