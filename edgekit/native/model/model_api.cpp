// The C interface of whole models: checks what comes from a program in C.
#include "edgekit_model.h"

#include <algorithm>
#include <cmath>

#include "context.h"
#include "guard.h"

using namespace edgekit;

static constexpr int32_t most_threads = 1024, packing_threads = 4, own_outputs = 2;
static constexpr const char* output_names[own_outputs] = {"last_hidden_state", "pooler_output"};

int edgekit::open_model(const void* bytes, size_t size, const edgekit_threads* host, Release release, edgekit_model** model) {
    return guarded([&] {
        if (!bytes || !model) return refuse("bytes or model is NULL");
        *model = nullptr;
        auto made = std::make_unique<edgekit_model>();
        const std::unique_ptr<ThreadPool> pool = host ? nullptr : ThreadPool::create(std::min(ThreadPool::processors(), packing_threads));
        if (pool) host = pool->threads();
        if (std::string problem = made->network.read(static_cast<const char*>(bytes), size, host, release); !problem.empty()) return refuse(problem);
        *model = made.release();
        return int(EDGEKIT_OK);
    });
}

int edgekit_model_open(const void* bytes, size_t size, const edgekit_threads* host, edgekit_model** model) {
    return open_model(bytes, size, host, nullptr, model);
}

void edgekit_model_close(edgekit_model* model) { delete model; }

const char* edgekit_model_describe(const edgekit_model* model) { return model ? model->network.description.c_str() : ""; }

int edgekit_model_input_size(const edgekit_model* model, int32_t* height, int32_t* width) {
    return guarded([&] {
        if (!model || !height || !width) return refuse("model, height or width is NULL");
        *height = model->network.transform.height, *width = model->network.transform.width;
        return int(EDGEKIT_OK);
    });
}

int32_t edgekit_model_outputs(const edgekit_model* model) { return model ? own_outputs + int32_t(model->network.programs.size()) : 0; }

int edgekit_context_create(const edgekit_model* model, const edgekit_context_options* options, edgekit_context** context) {
    return guarded([&] {
        if (!model || !context) return refuse("model or context is NULL");
        *context = nullptr;
        edgekit_context_options o{};
        if (options && options->size < sizeof o) return refuse("options of " + std::to_string(options->size) + " bytes are of another version");
        if (options) o = *options;
        if (o.threads < 0 || o.threads > most_threads) return refuse(std::to_string(o.threads) + " threads are not in 0.." + std::to_string(most_threads));
        if (o.scratch && reinterpret_cast<uintptr_t>(o.scratch) % 64) return refuse("scratch is not aligned to 64 bytes");
        auto made = std::make_unique<edgekit_context>();
        made->model = model, made->threads = o.host;
        if (o.scratch) made->given = true, made->memory = static_cast<char*>(o.scratch), made->capacity = o.scratch_bytes;
        if (!o.host && o.threads > 1) {
            made->pool = ThreadPool::create(o.threads);
            if (!made->pool) return refuse(std::to_string(o.threads) + " threads cannot be started here");
            made->threads = made->pool->threads();
        }
        *context = made.release();
        return int(EDGEKIT_OK);
    });
}

void edgekit_context_destroy(edgekit_context* context) { delete context; }

size_t edgekit_context_bytes(const edgekit_model* model, int32_t batch, int32_t height, int32_t width, int32_t threads) {
    size_t bytes = 0;
    guarded([&] {
        if (!model) return refuse("model is NULL");
        if (threads < 0 || threads > most_threads) return refuse(std::to_string(threads) + " threads are not in 0.." + std::to_string(most_threads));
        Layout layout;
        const edgekit_threads pool{nullptr, nullptr, size_t(threads)};
        if (std::string problem = layout.plan(model->network, batch, height, width, threads > 1 ? &pool : nullptr); !problem.empty()) return refuse(problem);
        bytes = size_t(layout.bytes);
        return int(EDGEKIT_OK);
    });
    return bytes;
}

int edgekit_context_run(edgekit_context* context, const float* pixels, int32_t batch, int32_t height, int32_t width) {
    return guarded([&] {
        if (!context || !pixels) return refuse("context or pixels is NULL");
        if (std::string problem = context->prepare(batch, height, width); !problem.empty()) return refuse(problem);
        return context->run(pixels) ? int(EDGEKIT_OK) : no_memory();
    });
}

// The model's transform for pictures of another size: the official ratio of edge and crop.
static std::string transform_for(const Network& network, int32_t height, int32_t width, Transform& transform) {
    transform = network.transform;
    if ((height == 0 && width == 0) || (height == transform.height && width == transform.width)) return "";
    if (height < 1 || width < 1 || std::max(height, width) > 1 << 14)
        return "input size " + std::to_string(height) + "x" + std::to_string(width) + " is not in 1.." + std::to_string(1 << 14);
    transform.height = height, transform.width = width, transform.shortest_edge = int(std::nearbyint(std::min(height, width) * 256 / 224.0));
    return "";
}

static Picture picture_of(const uint8_t* rgb, int32_t height, int32_t width, int32_t stride) {
    return {rgb, height, width, stride > 0 ? size_t(stride) : stride ? 0 : size_t(3) * size_t(std::max(width, 0))};
}

static int run_crop(edgekit_context* context, const uint8_t* crop, const Transform& transform) {
    if (std::string problem = context->prepare(1, transform.height, transform.width); !problem.empty()) return refuse(problem);
    float* pixels = context->at(context->layout.pixels);
    pixels_of(crop, transform, pixels);
    return context->run(pixels) ? int(EDGEKIT_OK) : no_memory();
}

int edgekit_context_run_rgb(edgekit_context* context, const uint8_t* rgb, int32_t height, int32_t width, int32_t stride, int32_t input_height,
                            int32_t input_width) {
    return guarded([&] {
        if (!context) return refuse("context is NULL");
        Transform transform;
        std::string problem = transform_for(context->model->network, input_height, input_width, transform);
        if (!problem.empty()) return refuse(problem);
        std::vector<uint8_t> crop(size_t(3) * transform.height * transform.width);
        problem = crop_picture(picture_of(rgb, height, width, stride), transform, crop.data());
        return problem.empty() ? run_crop(context, crop.data(), transform) : refuse(problem);
    });
}

int edgekit_model_crop(const edgekit_model* model, const uint8_t* rgb, int32_t height, int32_t width, int32_t stride, int32_t input_height,
                       int32_t input_width, uint8_t* crop) {
    return guarded([&] {
        if (!model || !crop) return refuse("model or crop is NULL");
        Transform transform;
        std::string problem = transform_for(model->network, input_height, input_width, transform);
        if (problem.empty()) problem = crop_picture(picture_of(rgb, height, width, stride), transform, crop);
        return problem.empty() ? int(EDGEKIT_OK) : refuse(problem);
    });
}

int edgekit_context_output(const edgekit_context* context, int32_t index, edgekit_output* output) {
    return guarded([&] {
        if (!context || !output) return refuse("context or output is NULL");
        if (!context->done) return refuse("the context has no outputs: its last run failed, or there was none");
        const Network& net = context->model->network;
        const Layout& layout = context->layout;
        const int32_t count = edgekit_model_outputs(context->model), width = net.width;
        if (index < 0 || index >= count) return refuse("output " + std::to_string(index) + " is not in 0.." + std::to_string(count - 1));
        *output = {};
        output->shape[0] = layout.batch;
        if (index == 0) {
            *output = {output_names[0], context->at(layout.hidden), 3, {layout.batch, int32_t(layout.tokens), width, 0}};
        } else if (index == 1) {
            *output = {output_names[1], context->at(layout.pooled), 2, {layout.batch, width, 0, 0}};
        } else {
            const size_t head = size_t(index - own_outputs);
            const Value& value = layout.programs[head].values.back();
            const int32_t sides[] = {value.channels, value.grid.rows, value.grid.columns};
            const int rank = net.programs[head].rank(), first = rank == 2 ? 1 : 0;
            output->name = net.programs[head].name().c_str(), output->values = context->at(layout.heads[head]), output->rank = rank + 1;
            std::copy_n(sides + first, rank, output->shape + 1);
        }
        return int(EDGEKIT_OK);
    });
}

int edgekit_context_check(edgekit_context* context, float* cosine) {
    return guarded([&] {
        if (!context) return refuse("context is NULL");
        const Network& net = context->model->network;
        const Transform& t = net.transform;
        std::vector<uint8_t> crop;
        for (int y = 0; y < t.height; ++y)
            for (int x = 0; x < t.width; ++x)
                for (int c = 0; c < 3; ++c) crop.push_back(uint8_t((x * (3 + c) / 2 + y * (2 + c) + 97 * ((x / net.patch + y / net.patch) % 3)) % 256));
        if (const int status = run_crop(context, crop.data(), t)) return status;
        const float* pooled = context->at(context->layout.pooled);
        double both = 0, own = 0, golden = 0;
        for (size_t i = 0; i < net.golden.size(); ++i)
            both += double(pooled[i]) * net.golden[i], own += double(pooled[i]) * pooled[i], golden += double(net.golden[i]) * net.golden[i];
        const double found = both / std::sqrt(own * golden);
        if (cosine) *cosine = float(found);
        if (found >= net.least_cosine) return int(EDGEKIT_OK);  // false of NaN as well
        return refuse("the golden picture reaches a cosine of " + decimal(found) + ", this model should reach " + decimal(net.least_cosine));
    });
}
