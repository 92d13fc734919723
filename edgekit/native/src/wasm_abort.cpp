// How the C++ library ends in WebAssembly: its own way brings printf, a tenth of a file of 200 KB.
#if defined(__wasm__)
#include <__verbose_abort>

void std::__libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
#endif
