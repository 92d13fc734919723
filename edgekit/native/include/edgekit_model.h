/* C interface of libedgekit: a whole vision transformer from one .edgekit file, without a runtime. docs/runtime.md has the file.

   A model is read once and never changes: any number of contexts, one per thread, may run it at once. Nothing is global but
   edgekit_last_error(), which belongs to the calling thread. Functions that can fail return an edgekit_status; no exception
   passes. Sizes are in pixels, height before width; values are little-endian floats. */
#ifndef EDGEKIT_MODEL_H
#define EDGEKIT_MODEL_H

#include "edgekit_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edgekit_model edgekit_model;
typedef struct edgekit_context edgekit_context;

/* One output: `rank` sides, the batch first. `name` lives as long as the model, `values` until the next run of the context. */
typedef struct {
    const char* name;
    const float* values;
    int32_t rank;
    int32_t shape[4];
} edgekit_output;

/* How a context runs. Zeros are the defaults. */
typedef struct {
    size_t size;                 /* sizeof(edgekit_context_options) of the caller */
    int32_t threads;             /* a pool of the context's own, of that many threads with the caller's; 0 and 1: the caller's alone */
    const edgekit_threads* host; /* the host's pool instead, which outlives the context; NULL: none */
    void* scratch;               /* memory for all runs, aligned to 64 bytes; NULL: the context allocates, and grows */
    size_t scratch_bytes;        /* edgekit_context_bytes() says how much a run needs */
} edgekit_context_options;

/* Reads a model and packs its weights for this CPU; `bytes` may go afterwards. `host` packs in parallel; NULL: up to four threads
   of the library's, which end with the call (none in builds for the web).
   EDGEKIT_INVALID, with the reason, for whatever is no whole and sound model: every size and offset is checked first. */
EDGEKIT_API int edgekit_model_open(const void* bytes, size_t size, const edgekit_threads* host, edgekit_model** model);
/* The same of a file, mapped while it is read. Not in builds for the web. */
EDGEKIT_API int edgekit_model_open_file(const char* path, const edgekit_threads* host, edgekit_model** model);
/* After all its contexts. NULL is nothing. */
EDGEKIT_API void edgekit_model_close(edgekit_model* model);

/* What the file says of itself: the JSON text of docs/runtime.md (manifest, preprocessing, class names, network, heads). */
EDGEKIT_API const char* edgekit_model_describe(const edgekit_model* model);
/* Height and width of the pictures it was built for; run functions take others as well, unless the model has no positions for them. */
EDGEKIT_API int edgekit_model_input_size(const edgekit_model* model, int32_t* height, int32_t* width);
/* Number of outputs: last_hidden_state, pooler_output, then one per head. 0 of NULL. */
EDGEKIT_API int32_t edgekit_model_outputs(const edgekit_model* model);

/* options == NULL: the calling thread alone, memory of its own. */
EDGEKIT_API int edgekit_context_create(const edgekit_model* model, const edgekit_context_options* options, edgekit_context** context);
EDGEKIT_API void edgekit_context_destroy(edgekit_context* context);
/* Scratch memory of a run of `batch` pictures of that size (0, 0: the model's) on `threads` threads; 0 where no such run exists. */
EDGEKIT_API size_t edgekit_context_bytes(const edgekit_model* model, int32_t batch, int32_t height, int32_t width, int32_t threads);

/* pixels (batch, 3, height, width), normalised unless the model's preprocessing says that the graph does it. */
EDGEKIT_API int edgekit_context_run(edgekit_context* context, const float* pixels, int32_t batch, int32_t height, int32_t width);
/* One picture (height, width, 3), `stride` bytes from row to row, 0: 3 * width. The official evaluation transform makes it
   (input_height, input_width) pixels (0, 0: the model's): shortest edge by antialiased bicubic, centre crop, normalisation. */
EDGEKIT_API int edgekit_context_run_rgb(edgekit_context* context, const uint8_t* rgb, int32_t height, int32_t width, int32_t stride,
                                        int32_t input_height, int32_t input_width);
/* The crop of that transform alone, before normalisation: (input_height, input_width, 3) bytes, equal to edgekit's in Python. */
EDGEKIT_API int edgekit_model_crop(const edgekit_model* model, const uint8_t* rgb, int32_t height, int32_t width, int32_t stride,
                                   int32_t input_height, int32_t input_width, uint8_t* crop);
/* Output number `index` of the last run that succeeded. */
EDGEKIT_API int edgekit_context_output(const edgekit_context* context, int32_t index, edgekit_output* output);
/* Self-test: runs the picture that every file describes and compares pooler_output with the FP32 model's, stored in the file.
   EDGEKIT_INVALID where the cosine is below what the file's precision reaches; `cosine` may be NULL. */
EDGEKIT_API int edgekit_context_check(edgekit_context* context, float* cosine);

#ifdef __cplusplus
}
#endif
#endif
