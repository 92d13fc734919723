/* Loads an op library as Python does, runs attention on a file of floats, and says which instruction set was used:
   load_ops LIBRARY QKV OUT, with qkv (1, 17, 3 * 64) and two heads. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

typedef int attention(const float*, float*, int64_t, int64_t, int64_t, int64_t, float, int32_t, const void*, const void*);

int main(int argc, char** argv) {
    enum { tokens = 17, width = 64 };
    static float qkv[tokens * 3 * width], out[tokens * width];
    if (argc != 4) return 2;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 3;
    const char* (*isa)(void) = (const char* (*)(void))dlsym(library, "edgekit_isa");
    attention* run = (attention*)dlsym(library, "edgekit_attention_run");
    FILE* given = fopen(argv[2], "rb");
    FILE* made = fopen(argv[3], "wb");
    if (!isa || !run || !given || !made || !dlsym(library, "RegisterCustomOps")) return 4;
    if (fread(qkv, sizeof qkv, 1, given) != 1 || run(qkv, out, 1, tokens, width, 2, 0.2f, 0, 0, 0)) return 5;
    if (fwrite(out, sizeof out, 1, made) != 1 || fclose(made)) return 6;
    return puts(isa()) < 0;
}
