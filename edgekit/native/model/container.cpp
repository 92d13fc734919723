// Reads the header of a safetensors file; every length and offset is checked before it is used.
#include "container.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "block.h"
#include "guard.h"

namespace edgekit {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

static constexpr uint64_t most_header = uint64_t{1} << 24;
static constexpr int64_t most_values = int64_t{1} << 40, most_sides = 4;

static std::string quoted(const std::string& text) { return "'" + text.substr(0, 100) + "'"; }

static std::string shown(const std::vector<int64_t>& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

std::string Container::read(const char* bytes, size_t size) {
    uint64_t length = 0;
    if (size < 8) return "it has " + std::to_string(size) + " bytes, too few for a header";
    std::memcpy(&length, bytes, 8);
    if (length > size - 8) return "its header claims " + std::to_string(length) + " bytes, the file has " + std::to_string(size);
    if (length > most_header) return "its header has " + std::to_string(length) + " bytes, at most " + std::to_string(most_header) + " are read";
    const char* data = bytes + 8 + length;
    if (reinterpret_cast<uintptr_t>(data) % 4) return "its tensors are not aligned to 4 bytes";
    Json header;
    std::string problem;
    if (!Json::parse({bytes + 8, size_t(length)}, header, problem)) return "its header is not JSON: " + problem;
    if (!header.is(Json::Kind::object)) return "its header is no object";
    std::vector<std::pair<int64_t, int64_t>> places;
    const int64_t left = int64_t(size - 8 - length);
    for (const auto& [name, entry] : header.members()) {
        if (name == "__metadata__") {
            const Json* own = entry.find(metadata_key);
            if (!own || !own->is(Json::Kind::text) || !metadata_.empty()) return std::string("its metadata have no one text ") + metadata_key;
            metadata_ = own->text();
        } else if (problem = read_tensor(name, entry, data, left, places); !problem.empty()) {
            return "tensor " + quoted(name) + " " + problem;
        }
    }
    if (metadata_.empty()) return "it has no metadata: edgekit did not write it";
    // The format knows no holes: sorted, each tensor begins where the one before it ends.
    std::sort(places.begin(), places.end());
    int64_t end = 0;
    for (const auto& [first, last] : places) {
        if (first != end) return "its tensors overlap or leave holes at byte " + std::to_string(first < end ? first : end);
        end = last;
    }
    return end == left ? "" : std::to_string(left - end) + " bytes follow its last tensor";
}

std::string Container::read_tensor(const std::string& name, const Json& entry, const char* data, int64_t size,
                                   std::vector<std::pair<int64_t, int64_t>>& places) {
    const Json *type = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
    if (!type || !shape || !offsets || !shape->is(Json::Kind::list) || !offsets->is(Json::Kind::list)) return "lacks dtype, shape or data_offsets";
    Tensor tensor;
    if (type->text() == "F32") tensor.type = Tensor::Type::f32;
    else if (type->text() == "I8") tensor.type = Tensor::Type::i8;
    else return "has type " + quoted(type->text()) + ", read are F32 and I8";
    if (shape->items().size() > most_sides) return "has " + std::to_string(shape->items().size()) + " sides";
    tensor.count = 1;
    for (const Json& item : shape->items()) {
        int64_t side = 0;
        if (!item.whole(0, most_values, side)) return "has a side that is no size";
        if (side && tensor.count > most_values / side) return "has too many values";
        tensor.count *= side;
        tensor.shape.push_back(side);
    }
    int64_t first = 0, last = 0;
    const std::vector<Json>& pair = offsets->items();
    if (pair.size() != 2 || !pair[0].whole(0, size, first) || !pair[1].whole(first, size, last)) return "does not lie inside the file";
    const int64_t each = tensor.type == Tensor::Type::f32 ? 4 : 1;
    if (last - first != tensor.count * each)
        return "of shape " + shown(tensor.shape) + " needs " + std::to_string(tensor.count * each) + " bytes and has " + std::to_string(last - first);
    if (first % each) return "is not aligned to its type";
    tensor.data = data + first;
    if (first != last) places.emplace_back(first, last);
    return tensors_.emplace(name, std::move(tensor)).second ? "" : "is there twice";
}

const Tensor* Container::find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

const Tensor* Reader::tensor(const std::string& name, const std::vector<int64_t>& shape, Tensor::Type type) {
    const Tensor* found = container_.find(name);
    if (!found) return refuse("tensor " + quoted(name) + " is missing"), nullptr;
    if (found->type != type) return refuse("tensor " + quoted(name) + " is not of " + (type == Tensor::Type::f32 ? "floats" : "bytes")), nullptr;
    if (found->shape != shape) return refuse("tensor " + quoted(name) + " has shape " + shown(found->shape) + ", not " + shown(shape)), nullptr;
    return found;
}

const float* Reader::floats(const std::string& name, const std::vector<int64_t>& shape) {
    const Tensor* found = tensor(name, shape, Tensor::Type::f32);
    if (!found) return nullptr;
    const float* values = reinterpret_cast<const float*>(found->data);
    if (!all_finite(values, found->count)) return refuse("tensor " + quoted(name) + " holds values that are not finite"), nullptr;
    return values;
}

const int8_t* Reader::bytes(const std::string& name, const std::vector<int64_t>& shape) {
    const Tensor* found = tensor(name, shape, Tensor::Type::i8);
    return found ? reinterpret_cast<const int8_t*>(found->data) : nullptr;
}

std::vector<int64_t> Reader::shape_of(const std::string& name) {
    const Tensor* found = container_.find(name);
    if (!found) refuse("tensor " + quoted(name) + " is missing");
    return found ? found->shape : std::vector<int64_t>{};
}

bool Reader::is_integer(const std::string& name) const {
    const Tensor* found = container_.find(name);
    return found && found->type == Tensor::Type::i8;
}

Fields::Fields(const Json* object, std::string where, Reader& reader) : object_(object), where_(std::move(where)), reader_(reader) {
    if (!object_ || !object_->is(Json::Kind::object)) reader_.refuse("its metadata have no " + where_), object_ = nullptr;
}

void Fields::refuse(const char* key, const std::string& why) { reader_.refuse(where_ + "." + key + " " + why); }

const Json* Fields::member(const char* key, Json::Kind kind) {
    const Json* found = find(key);
    if (found && found->is(kind)) return found;
    if (object_) refuse(key, found ? "is of another type" : "is missing");
    return nullptr;
}

int64_t Fields::whole(const char* key, int64_t least, int64_t most) {
    const Json* found = member(key, Json::Kind::number);
    int64_t value = least;
    if (found && !found->whole(least, most, value)) refuse(key, "is not in " + std::to_string(least) + ".." + std::to_string(most));
    return value;
}

double Fields::number(const char* key, double least, double most) {
    const Json* found = member(key, Json::Kind::number);
    if (!found) return least;
    if (found->number() >= least && found->number() <= most) return found->number();
    refuse(key, "is not in " + decimal(least) + ".." + decimal(most));
    return least;
}

std::string Fields::text(const char* key) {
    const Json* found = member(key, Json::Kind::text);
    return found ? found->text() : "";
}

int Fields::choice(const char* key, const std::vector<std::string_view>& choices) {
    const std::string given = text(key);
    const auto found = std::find(choices.begin(), choices.end(), given);
    if (found != choices.end()) return int(found - choices.begin());
    refuse(key, "is " + quoted(given) + ", which this library does not know");
    return 0;
}

const Json* Fields::list(const char* key) { return member(key, Json::Kind::list); }

std::vector<int64_t> Fields::wholes(const char* key, size_t count, int64_t least, int64_t most) {
    const Json* found = list(key);
    std::vector<int64_t> values;
    for (size_t i = 0; found && i < found->items().size(); ++i) {
        int64_t value = least;
        if (!found->items()[i].whole(least, most, value)) refuse(key, "is not in " + std::to_string(least) + ".." + std::to_string(most));
        values.push_back(value);
    }
    if (found && count && values.size() != count) refuse(key, "has " + std::to_string(values.size()) + " numbers");
    if (count) values.resize(count, least);
    return values;
}

std::vector<double> Fields::numbers(const char* key, size_t count, double least, double most) {
    const Json* found = list(key);
    std::vector<double> values;
    for (size_t i = 0; found && i < found->items().size(); ++i) {
        const Json& item = found->items()[i];
        if (!item.is(Json::Kind::number) || !(item.number() >= least && item.number() <= most)) refuse(key, "is no number in its range");
        values.push_back(item.number());
    }
    if (found && values.size() != count) refuse(key, "has " + std::to_string(values.size()) + " numbers");
    values.resize(count, least);
    return values;
}

}  // namespace edgekit
