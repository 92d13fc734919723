// Models in files, mapped while they are read: the pages of weights that are packed can be dropped.
#include <string.h>

#include <cerrno>
#include <string>

#include "context.h"
#include "guard.h"

#if defined(_WIN32)
#include <fstream>
#include <vector>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

using namespace edgekit;

#if defined(_WIN32)

int edgekit_model_open_file(const char* path, const edgekit_threads* host, edgekit_model** model) {
    return guarded([&] {
        if (!path || !model) return refuse("path or model is NULL");
        *model = nullptr;
        std::ifstream file(path, std::ios::binary | std::ios::ate);
        if (!file) return refuse(std::string(path) + " cannot be opened");
        std::vector<char> bytes(size_t(file.tellg()));
        file.seekg(0);
        if (!file.read(bytes.data(), std::streamsize(bytes.size()))) return refuse(std::string(path) + " cannot be read");
        return edgekit_model_open(bytes.data(), bytes.size(), host, model);
    });
}

#else

namespace {

struct Descriptor {
    int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

// The whole pages between two addresses: weights that are packed would be in memory twice.
void drop_pages(const void* first, size_t size) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = rounded(reinterpret_cast<uintptr_t>(first), page), end = (reinterpret_cast<uintptr_t>(first) + size) / page * page;
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // advisory
}

}  // namespace

int edgekit_model_open_file(const char* path, const edgekit_threads* host, edgekit_model** model) {
    return guarded([&] {
        if (!path || !model) return refuse("path or model is NULL");
        *model = nullptr;
        const auto failed = [&](const char* what) { return refuse(std::string(path) + " cannot be " + what + ": " + strerror(errno)); };
        const Descriptor file{open(path, O_RDONLY | O_CLOEXEC)};
        if (file.number < 0) return failed("opened");
        struct stat status {};
        if (fstat(file.number, &status) != 0) return failed("read");
        if (!S_ISREG(status.st_mode)) return refuse(std::string(path) + " is no file");
        if (status.st_size == 0) return refuse(std::string(path) + " is empty");
        void* bytes = mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, file.number, 0);
        if (bytes == MAP_FAILED) return failed("mapped");
        const int result = open_model(bytes, size_t(status.st_size), host, drop_pages, model);
        munmap(bytes, size_t(status.st_size));
        return result;
    });
}

#endif
