// The tensors of a .edgekit file, a safetensors file that may be hostile.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.h"

namespace edgekit {

struct Tensor {
    enum class Type { f32, i8 };
    Type type = Type::f32;
    std::vector<int64_t> shape;
    const char* data = nullptr;  // aligned to its type
    int64_t count = 0;           // of its values
};

// Names and places of what a file holds. Once read, each tensor lies inside the file, whole, and overlaps no other.
class Container {
public:
    // Empty, or why the file is refused. The bytes have to stay while this is used.
    std::string read(const char* bytes, size_t size);

    const std::string& metadata() const { return metadata_; }
    // Null where there is none of that name.
    const Tensor* find(const std::string& name) const;

private:
    std::unordered_map<std::string, Tensor> tensors_;
    std::string metadata_;

    std::string read_tensor(const std::string& name, const Json& entry, const char* data, int64_t size, std::vector<std::pair<int64_t, int64_t>>& places);
};

inline constexpr const char* metadata_key = "edgekit.model";

// Takes what a model is made of out of a container. The first thing that is missing or wrong is kept, and later ones are not
// looked at: who reads many asks once, at the end.
class Reader {
public:
    explicit Reader(const Container& container) : container_(container) {}

    const std::string& problem() const { return problem_; }
    bool sound() const { return problem_.empty(); }
    void refuse(std::string why) {
        if (problem_.empty()) problem_ = std::move(why);
    }
    bool has(const std::string& name) const { return container_.find(name) != nullptr; }
    // Null, and a problem, unless it is there with that shape and all its values are finite.
    const float* floats(const std::string& name, const std::vector<int64_t>& shape);
    const int8_t* bytes(const std::string& name, const std::vector<int64_t>& shape);
    // Shape of a tensor; empty, and a problem, where there is none.
    std::vector<int64_t> shape_of(const std::string& name);
    bool is_integer(const std::string& name) const;

private:
    const Container& container_;
    std::string problem_;

    const Tensor* tensor(const std::string& name, const std::vector<int64_t>& shape, Tensor::Type type);
};

// Members of an object of the metadata, with the same rule; `where` names the object in a refusal.
class Fields {
public:
    Fields(const Json* object, std::string where, Reader& reader);

    int64_t whole(const char* key, int64_t least, int64_t most);
    double number(const char* key, double least, double most);
    std::string text(const char* key);
    // The index of the text among `choices`; 0, and a problem, for another.
    int choice(const char* key, const std::vector<std::string_view>& choices);
    std::vector<int64_t> wholes(const char* key, size_t count, int64_t least, int64_t most);
    std::vector<double> numbers(const char* key, size_t count, double least, double most);
    const Json* find(const char* key) const { return object_ ? object_->find(key) : nullptr; }
    // Whether it is there, an object or a list.
    const Json* list(const char* key);

private:
    const Json* object_;
    std::string where_;
    Reader& reader_;

    const Json* member(const char* key, Json::Kind kind);
    void refuse(const char* key, const std::string& why);
};

}  // namespace edgekit
