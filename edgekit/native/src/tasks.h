// Rows of a batch as tasks for the host's threads, and the scratch memory of a task.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>

#include "kernels.h"
#include "workspace.h"

namespace edgekit {

template <class Task>
void for_each(const edgekit_threads* threads, size_t count, Task& task) {
    if (threads && threads->run && count > 1)
        threads->run(threads->pool, [](void* argument, size_t i) { (*static_cast<Task*>(argument))(i); }, count, &task);
    else
        for (size_t i = 0; i < count; ++i) task(i);
}

// Rows of the i-th of `count` nearly equal parts, [first, last); all parts but the last are multiples of `multiple`.
struct Part {
    int64_t first, last;
    Part(int64_t rows, int64_t multiple, int64_t count, int64_t i) {
        const int64_t units = (rows + multiple - 1) / multiple;
        first = units * i / count * multiple, last = std::min(rows, units * (i + 1) / count * multiple);
    }
    int rows() const { return int(last - first); }
    // The rows of the largest of `count` parts.
    static int64_t most(int64_t rows, int64_t multiple, int64_t count) {
        const int64_t units = (rows + multiple - 1) / multiple;
        return std::min(rows, (units + count - 1) / count * multiple);
    }
};

// How many parts, where each reads all the weights of a linear layer.
int64_t parts_of(int64_t rows, const Kernels& kernels, Format format, const edgekit_threads* threads);

// Equal pieces of memory for tasks that run at once; who finds none free waits for another task to end.
class Slots {
public:
    Slots(char* memory, size_t bytes_each, int count);
    char* take();
    void give(char* piece);
    size_t bytes_each() const { return bytes_each_; }

private:
    char* memory_;
    size_t bytes_each_;
    int count_;
    std::unique_ptr<std::atomic<bool>[]> taken_;
};

// The scratch memory of a task: one of the slots, or without them of the process-wide pool. data() is null when memory is short.
class Scratch {
public:
    Scratch(Slots* slots, size_t bytes) : slots_(slots) {
        if (slots) data_ = slots->bytes_each() >= bytes ? slots->take() : nullptr;
        else data_ = pooled_.emplace(bytes).data();
    }
    ~Scratch() {
        if (slots_ && data_) slots_->give(data_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    char* data() const { return data_; }

private:
    Slots* slots_;
    char* data_;
    std::optional<Workspace> pooled_;
};

}  // namespace edgekit
