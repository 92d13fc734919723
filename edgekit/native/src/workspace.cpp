// The pool: a few free buffers behind a lock, the smallest that fits is taken.
#include "workspace.h"

#include <stdlib.h>

#if defined(__wasm__)
#include <atomic>
#endif
#include <mutex>

#include "kernels.h"

namespace edgekit {
namespace {

#if defined(__wasm__)  // its C++ library has no mutex
class Lock {
public:
    void lock() { while (taken_.test_and_set(std::memory_order_acquire)) {} }
    void unlock() { taken_.clear(std::memory_order_release); }

private:
    std::atomic_flag taken_;
};
#else
using Lock = std::mutex;
#endif

struct Free {
    char* data;
    size_t capacity;
};

struct Pool {
    Lock lock;
    Free free[32] = {};
    ~Pool() {
        for (Free& slot : free) ::free(slot.data);
    }
};

Pool& pool() {
    static Pool instance;
    return instance;
}

}  // namespace

Workspace::Workspace(size_t bytes) {
    {
        std::lock_guard<Lock> guard(pool().lock);
        Free* best = nullptr;
        for (Free& slot : pool().free)
            if (slot.data && slot.capacity >= bytes && slot.capacity / 4 <= bytes && (!best || slot.capacity < best->capacity))
                best = &slot;
        if (best) {
            data_ = best->data, capacity_ = best->capacity;
            *best = {};
            return;
        }
    }
    capacity_ = rounded(bytes + 64, 4096);
#if defined(_WIN32)
    data_ = static_cast<char*>(malloc(capacity_ + 64));  // rows are read unaligned: alignment is only speed
#else
    void* memory = nullptr;
    data_ = posix_memalign(&memory, 64, capacity_) == 0 ? static_cast<char*>(memory) : nullptr;
#endif
}

Workspace::~Workspace() {
    if (!data_) return;
    char* dropped = data_;
    {
        std::lock_guard<Lock> guard(pool().lock);
        Free* place = nullptr;  // an empty slot, else the smallest buffer makes room
        for (Free& slot : pool().free)
            if (!place || slot.capacity < place->capacity) place = &slot;
        if (place->capacity < capacity_) {
            dropped = place->data;
            *place = {data_, capacity_};
        }
    }
    ::free(dropped);
}

}  // namespace edgekit
