// Scratch memory that outlives a call: fresh pages would cost more than the arithmetic they hold.
#pragma once

#include <stddef.h>

namespace edgekit {

// Takes a buffer of the process-wide pool and gives it back; 64-byte aligned, contents undefined.
class Workspace {
public:
    explicit Workspace(size_t bytes);  // data() is null when memory is short
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    char* data() const { return data_; }

private:
    char* data_ = nullptr;
    size_t capacity_ = 0;
};

}  // namespace edgekit
