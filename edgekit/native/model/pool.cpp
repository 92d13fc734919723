// Workers that look for the next task for a moment before they sleep: a block has four rounds of tasks, some 0.1 ms apart.
#include "pool.h"

#if !defined(__wasm__) || defined(__wasm_atomics__)
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace edgekit {

#if !defined(__wasm__) || defined(__wasm_atomics__)

struct ThreadPool::State {
    using Task = void (*)(void*, size_t);
    static constexpr auto patience = std::chrono::microseconds(100);

    std::mutex lock;
    std::condition_variable wake;
    std::vector<std::thread> workers;
    std::atomic<uint64_t> round{0};
    std::atomic<size_t> next{0}, busy{0};
    bool ended = false;
    Task task = nullptr;
    void* argument = nullptr;
    size_t count = 0;

    void work() {
        for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(argument, i);
    }

    template <class Done>
    static bool spin(Done&& done) {
        const auto end = std::chrono::steady_clock::now() + patience;
        do {
            for (int i = 0; i < 64; ++i)
                if (done()) return true;
            std::this_thread::yield();
        } while (std::chrono::steady_clock::now() < end);
        return false;
    }

    void serve() {
        for (uint64_t seen = 0;;) {
            const auto called = [&] { return round.load(std::memory_order_acquire) != seen; };
            if (!spin(called)) {
                std::unique_lock<std::mutex> guard(lock);
                wake.wait(guard, [&] { return called() || ended; });
            }
            if (!called()) return;  // ended
            ++seen;
            work();
            busy.fetch_sub(1, std::memory_order_release);
        }
    }

    void run(Task wanted, void* with, size_t tasks) {
        task = wanted, argument = with, count = tasks;
        next.store(0, std::memory_order_relaxed);
        busy.store(workers.size(), std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> guard(lock);  // none may fall asleep between looking and waiting
            round.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
        work();
        while (busy.load(std::memory_order_acquire)) std::this_thread::yield();
    }

    ~State() {
        {
            std::lock_guard<std::mutex> guard(lock);
            ended = true;
        }
        wake.notify_all();
        for (std::thread& worker : workers) worker.join();
    }
};

int ThreadPool::processors() { return std::max(1, int(std::thread::hardware_concurrency())); }

std::unique_ptr<ThreadPool> ThreadPool::create(int threads) {
    std::unique_ptr<ThreadPool> pool(new ThreadPool);
    State& state = *pool->state_;
    const auto start = [&] {
        for (int i = 1; i < threads; ++i) state.workers.emplace_back(&State::serve, &state);
    };
#if defined(__cpp_exceptions)
    try {
        start();
    } catch (const std::system_error&) {
        return nullptr;
    }
#else
    start();
#endif
    pool->threads_.threads = size_t(threads);
    return pool;
}

ThreadPool::ThreadPool() : state_(std::make_unique<State>()) {
    threads_ = {state_.get(), [](void* state, void (*task)(void*, size_t), size_t count, void* argument) {
                    static_cast<State*>(state)->run(task, argument, count);
                }, 0};
}

#else

struct ThreadPool::State {};
int ThreadPool::processors() { return 1; }
std::unique_ptr<ThreadPool> ThreadPool::create(int) { return nullptr; }
ThreadPool::ThreadPool() = default;

#endif

ThreadPool::~ThreadPool() = default;

}  // namespace edgekit
