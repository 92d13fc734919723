// JSON of files that may be hostile: bounded in depth and number of values, and nothing but the standard's grammar.
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekit {

class Json {
public:
    enum class Kind { null, boolean, number, text, list, object };

    // False, with the reason in `problem`, where `text` is not JSON.
    static bool parse(std::string_view text, Json& value, std::string& problem);

    Kind kind() const { return kind_; }
    bool is(Kind kind) const { return kind_ == kind; }
    bool truth() const { return number_ != 0; }
    double number() const { return number_; }
    const std::string& text() const { return text_; }
    const std::vector<Json>& items() const { return items_; }
    const std::vector<std::pair<std::string, Json>>& members() const { return members_; }
    // Null where this is no object or has no such member.
    const Json* find(std::string_view key) const;
    // Whether it is a whole number within these bounds, which `value` becomes.
    bool whole(int64_t least, int64_t most, int64_t& value) const;

private:
    friend class JsonParser;
    Kind kind_ = Kind::null;
    double number_ = 0;
    std::string text_;
    std::vector<Json> items_;
    std::vector<std::pair<std::string, Json>> members_;
};

}  // namespace edgekit
