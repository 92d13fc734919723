// Heads: a list of steps over the tokens of one image, each of which makes one value.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "kernels.h"
#include "positions.h"

namespace edgekit {

class Json;
class Reader;
class Slots;
struct FloatLinear;
struct LayerNorm;
struct Step;

// Tokens (count, channels), a vector (channels), or a map (rows, columns, channels): channels stand beside each other always.
struct Value {
    enum class Kind { tokens, vector, map };
    Kind kind = Kind::vector;
    int channels = 0;
    Grid grid;             // of a map
    int64_t places = 1;    // tokens, or rows times columns
    uint64_t offset = 0;   // bytes in the memory of a run
    int64_t count() const { return places * channels; }
    uint64_t bytes() const { return uint64_t(count()) * sizeof(float); }
};

// What the values of one run are, and the memory that they need: values that are no longer wanted make room for later ones.
struct ProgramPlan {
    std::vector<Value> values;
    uint64_t bytes = 0;
    size_t task = 0;  // scratch of one task
};

class Program {
public:
    Program();
    ~Program();
    Program(Program&&) noexcept;

    // Whatever is wrong with a head of the description becomes the problem of `reader`.
    void read(const Json& head, int width, int depth, float epsilon, Reader& reader);
    const std::string& name() const { return name_; }
    int rank() const { return rank_; }  // of its output without the batch
    const std::vector<int>& blocks() const { return blocks_; }  // whose output it takes, without final norm

    // Empty, or why it cannot run on images of `grid`.
    std::string plan(Grid grid, int first_patch, int width, ProgramPlan& plan) const;
    // layers: the residual stream (tokens, width) behind each of `blocks()`, hidden: last_hidden_state. Writes the output (channels,
    // rows, columns).
    bool run(const ProgramPlan& plan, const std::vector<const float*>& layers, const float* hidden, int first_patch, char* memory, float* output,
             const edgekit_threads* threads, Slots* slots) const;

private:
    std::string name_;
    int rank_ = 1;
    Grid built_for_;
    std::vector<Step> steps_;
    std::vector<int> blocks_;

    void read_step(const Json& json, size_t index, int depth, float epsilon, Reader& reader);
    std::string shape_of(size_t index, Grid grid, int first_patch, int width, std::vector<Value>& values) const;
};

}  // namespace edgekit
