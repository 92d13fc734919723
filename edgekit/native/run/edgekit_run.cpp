// Runs a .edgekit file on a picture from the command line, for devices. Pictures are binary PPM, as djpeg and ImageMagick
// write it, or raw RGB; "-" is standard input.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "edgekit_model.h"

namespace {

constexpr const char* usage =
    "edgekit-run MODEL.edgekit PICTURE.ppm      outputs, and the time of a run\n"
    "edgekit-run MODEL.edgekit --check          the model's own test\n"
    "edgekit-run MODEL.edgekit --describe       what the file says of itself, as JSON\n"
    "  --threads N          threads, 1 unless it is given\n"
    "  --size HxW           pixels that the model gets, its own size unless it is given\n"
    "  --raw HxW            the picture is raw RGB of that size\n"
    "  --repeat N           runs, of which the median time is told\n"
    "  --save OUTPUT=FILE   an output as raw little-endian float32\n";

struct Arguments {
    std::string model, picture, output, file;
    bool check = false, describe = false;
    int threads = 1, repeat = 1, height = 0, width = 0, raw_height = 0, raw_width = 0;
};

struct Picture {
    int height = 0, width = 0;
    std::vector<uint8_t> rgb;
};

[[noreturn]] void fail(const std::string& why) {
    fprintf(stderr, "edgekit-run: %s\n", why.c_str());
    exit(1);
}

void require(int status) {
    if (status != EDGEKIT_OK) fail(edgekit_last_error());
}

int number(const char* text, int most) {
    char* end = nullptr;
    const long value = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || value < 1 || value > most) fail(std::string(text ? text : "nothing") + " is no number from 1 to " + std::to_string(most));
    return int(value);
}

void size_of(const char* text, int& height, int& width) {
    if (!text || sscanf(text, "%dx%d", &height, &width) != 2) fail(std::string(text ? text : "nothing") + " is no size such as 224x224");
}

Arguments parsed(int count, char** given) {
    Arguments a;
    std::vector<std::string> names;
    for (int i = 1; i < count; ++i) {
        const std::string word = given[i];
        const auto next = [&] { return i + 1 < count ? given[++i] : nullptr; };
        if (word == "--check") a.check = true;
        else if (word == "--describe") a.describe = true;
        else if (word == "--threads") a.threads = number(next(), 1024);
        else if (word == "--repeat") a.repeat = number(next(), 1000000);
        else if (word == "--size") size_of(next(), a.height, a.width);
        else if (word == "--raw") size_of(next(), a.raw_height, a.raw_width);
        else if (word == "--save") {
            const char* pair = next();
            const char* middle = pair ? strchr(pair, '=') : nullptr;
            if (!middle) fail("--save takes OUTPUT=FILE");
            a.output.assign(pair, middle), a.file = middle + 1;
        } else if (word.size() > 1 && word[0] == '-') fail("unknown option " + word + "\n" + usage);
        else names.push_back(word);
    }
    const bool needs_picture = !a.check && !a.describe;
    if (names.size() != (needs_picture ? 2u : 1u)) fail(std::string("\n") + usage);
    a.model = names[0];
    if (needs_picture) a.picture = names[1];
    return a;
}

std::vector<uint8_t> contents(const std::string& path) {
    FILE* file = path == "-" ? stdin : fopen(path.c_str(), "rb");
    if (!file) fail(path + " cannot be opened");
    std::vector<uint8_t> bytes;
    uint8_t buffer[1 << 16];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;) bytes.insert(bytes.end(), buffer, buffer + n);
    if (ferror(file)) fail(path + " cannot be read");
    if (file != stdin) fclose(file);
    return bytes;
}

// One number of a PPM header, behind white space and comments; -1 where there is none.
int header_number(const std::vector<uint8_t>& bytes, size_t& at) {
    for (bool comment = false; at < bytes.size() && (comment || isspace(bytes[at]) || bytes[at] == '#'); ++at)
        comment = (comment || bytes[at] == '#') && bytes[at] != '\n';
    int value = -1;
    for (; at < bytes.size() && isdigit(bytes[at]) && value < 100000; ++at) value = std::max(value, 0) * 10 + (bytes[at] - '0');
    return value;
}

Picture picture_of(const Arguments& a) {
    std::vector<uint8_t> bytes = contents(a.picture);
    Picture picture{a.raw_height, a.raw_width, {}};
    size_t at = 0;
    if (!a.raw_height) {
        if (bytes.size() < 3 || bytes[0] != 'P' || bytes[1] != '6') fail(a.picture + " is no binary PPM (djpeg photo.jpg | edgekit-run MODEL -)");
        at = 2;
        picture.width = header_number(bytes, at), picture.height = header_number(bytes, at);
        if (header_number(bytes, at) != 255) fail(a.picture + " has levels other than 0 to 255");
        ++at;
    }
    if (picture.height < 1 || picture.width < 1 || picture.height > 65536 || picture.width > 65536) fail(a.picture + " has an impossible size");
    const size_t wanted = size_t(3) * size_t(picture.width) * size_t(picture.height);
    if (bytes.size() < at || bytes.size() - at < wanted) fail(a.picture + " is cut short");
    picture.rgb.assign(bytes.begin() + long(at), bytes.begin() + long(at + wanted));
    return picture;
}

double milliseconds() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void print(const edgekit_output& output) {
    std::string shape;
    size_t count = 1;
    for (int i = 0; i < output.rank; ++i) shape += (i ? "x" : "") + std::to_string(output.shape[i]), count *= size_t(output.shape[i]);
    printf("%s %s:", output.name, shape.c_str());
    for (size_t i = 0; i < std::min<size_t>(count, 6); ++i) printf(" %g", double(output.values[i]));
    printf(count > 6 ? " ...\n" : "\n");
}

void save(const edgekit_output& output, const std::string& path) {
    size_t count = 1;
    for (int i = 0; i < output.rank; ++i) count *= size_t(output.shape[i]);
    FILE* file = fopen(path.c_str(), "wb");
    if (!file || fwrite(output.values, sizeof(float), count, file) != count || fclose(file) != 0) fail(path + " cannot be written");
}

void run(const Arguments& a, const edgekit_model* model, edgekit_context* context) {
    const Picture picture = picture_of(a);
    std::vector<double> times;
    for (int i = 0; i < a.repeat; ++i) {
        const double start = milliseconds();
        require(edgekit_context_run_rgb(context, picture.rgb.data(), picture.height, picture.width, 0, a.height, a.width));
        times.push_back(milliseconds() - start);
    }
    bool saved = a.output.empty();
    for (int32_t i = 0; i < edgekit_model_outputs(model); ++i) {
        edgekit_output output;
        require(edgekit_context_output(context, i, &output));
        print(output);
        if (a.output == output.name) save(output, a.file), saved = true;
    }
    if (!saved) fail("the model has no output " + a.output);
    std::sort(times.begin(), times.end());
    printf("%s, threads %d: %.2f ms (median of %d)\n", edgekit_isa(), a.threads, times[times.size() / 2], a.repeat);
}

}  // namespace

int main(int count, char** given) {
    const Arguments a = parsed(count, given);
    edgekit_model* model = nullptr;
    edgekit_context* context = nullptr;
    const double start = milliseconds();
    require(edgekit_model_open_file(a.model.c_str(), nullptr, &model));
    if (a.describe) {
        printf("%s\n", edgekit_model_describe(model));
    } else {
        printf("opened in %.1f ms\n", milliseconds() - start);
        edgekit_context_options options{};
        options.size = sizeof options, options.threads = a.threads;
        require(edgekit_context_create(model, &options, &context));
        float cosine = 0;
        if (a.check) {
            require(edgekit_context_check(context, &cosine));
            printf("%s: passed, cosine %.6f\n", edgekit_isa(), double(cosine));
        } else {
            run(a, model, context);
        }
    }
    edgekit_context_destroy(context);
    edgekit_model_close(model);
    return 0;
}
