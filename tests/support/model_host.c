/* An app in C: opens a model, runs its golden picture in memory of its own and in memory that it gives, and prints the cosine. */
#include <edgekit_model.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char* what) {
    fprintf(stderr, "%s: %s\n", what, edgekit_last_error());
    return 1;
}

int main(int count, char** words) {
    edgekit_model* model = NULL;
    edgekit_context *own = NULL, *given = NULL, *small = NULL;
    edgekit_context_options options = {0};
    edgekit_output first, second;
    float cosine = 0;
    size_t bytes;
    if (count != 2 || edgekit_model_open_file(words[1], NULL, &model)) return failed("open");
    if (edgekit_context_create(model, NULL, &own) || edgekit_context_check(own, &cosine)) return failed("own memory");
    if (edgekit_context_output(own, 0, &first)) return failed("output");

    options.size = sizeof options, options.threads = 3;
    options.scratch_bytes = bytes = edgekit_context_bytes(model, 1, 0, 0, options.threads);
    options.scratch = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (!options.scratch || edgekit_context_create(model, &options, &given) || edgekit_context_check(given, NULL)) return failed("given memory");
    if (edgekit_context_output(given, 0, &second)) return failed("output");
    if (memcmp(first.values, second.values, sizeof(float) * (size_t)first.shape[1] * (size_t)first.shape[2])) return failed("other values");

    options.scratch_bytes = bytes - 64;
    if (edgekit_context_create(model, &options, &small)) return failed("create");
    if (edgekit_context_check(small, NULL) != EDGEKIT_INVALID || !strstr(edgekit_last_error(), "scratch")) return failed("too little memory");
    if (edgekit_context_output(small, 0, &second) != EDGEKIT_INVALID) return failed("outputs of nothing");
    edgekit_context_destroy(small);
    options.size = 4;
    if (edgekit_context_create(model, &options, &small) != EDGEKIT_INVALID || small) return failed("options of another version");
    printf("%s %d %f\n", first.name, first.shape[2], cosine);
    edgekit_context_destroy(given);
    edgekit_context_destroy(own);
    edgekit_model_close(model);
    free(options.scratch);
    return 0;
}
