// A context's own threads.
#pragma once

#include <memory>

#include "edgekit_ops.h"

namespace edgekit {

// Null where this build has no threads, or the system gives none.
class ThreadPool {
public:
    static std::unique_ptr<ThreadPool> create(int threads);  // the caller's included
    static int processors();
    ~ThreadPool();
    const edgekit_threads* threads() const { return &threads_; }

private:
    struct State;
    std::unique_ptr<State> state_;
    edgekit_threads threads_{};
    ThreadPool();
};

}  // namespace edgekit
