// The border to programs in C: a sentence for edgekit_last_error(), and no exception.
#pragma once

#include <math.h>
#include <stdint.h>

#include <exception>
#include <new>
#include <string>

#include "edgekit_ops.h"

namespace edgekit {

int refuse(std::string why);  // keeps the sentence; EDGEKIT_INVALID
int no_memory();              // EDGEKIT_NO_MEMORY

// A number with six decimals; std::to_string would bring printf with it, 20 KB of a WebAssembly file of 230.
inline std::string decimal(double value) {
    if (!(fabs(value) < 1e12)) return value > 0 ? "1e12 or more" : value < 0 ? "-1e12 or less" : "no number";
    const int64_t parts = int64_t(fabs(value) * 1e6 + 0.5);
    return (value < 0 ? "-" : "") + std::to_string(parts / 1000000) + "." + std::to_string(1000000 + parts % 1000000).substr(1);
}

// Runs `body`; builds without exceptions (for the web) end where memory does.
template <class Body>
int guarded(Body&& body) {
#if defined(__cpp_exceptions)
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return no_memory();
    } catch (const std::exception& error) {
        return refuse(error.what());
    }
#else
    return body();
#endif
}

}  // namespace edgekit
