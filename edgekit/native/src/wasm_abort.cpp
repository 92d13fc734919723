// How the C++ library ends in WebAssembly: its own way brings printf, 20 KB of a file of 230.
#if defined(__wasm__)
#include <__verbose_abort>

void std::__libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
#endif
