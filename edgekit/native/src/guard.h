// The border to programs in C: a sentence for edgekit_last_error(), and no exception.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "edgekit_ops.h"

namespace edgekit {

int refuse(std::string why);  // keeps the sentence; EDGEKIT_INVALID
int no_memory();              // EDGEKIT_NO_MEMORY

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
