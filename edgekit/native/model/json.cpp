// A recursive parser; numbers are read without the host's locale.
#include "json.h"

#include <cmath>

namespace edgekit {

static constexpr int most_depth = 32, most_values = 1 << 19, most_digits = 19, most_exponent = 400;

class JsonParser {
public:
    explicit JsonParser(std::string_view text) : at_(text.data()), end_(text.data() + text.size()), start_(at_) {}

    bool whole(Json& value) {
        if (!read(value, 0)) return false;
        skip();
        return at_ == end_ || fail("more follows its end");
    }
    std::string problem() const { return std::string(problem_) + " at byte " + std::to_string(at_ - start_); }

private:
    const char *at_, *end_, *start_;
    const char* problem_ = "";
    int values_ = 0;

    bool fail(const char* problem) {
        problem_ = problem;
        return false;
    }
    void skip() {
        while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    }
    bool take(char c) {
        skip();
        if (at_ == end_ || *at_ != c) return false;
        ++at_;
        return true;
    }
    bool word(std::string_view expected) {
        if (size_t(end_ - at_) < expected.size() || std::string_view(at_, expected.size()) != expected) return fail("an unknown word");
        at_ += expected.size();
        return true;
    }
    bool read(Json& value, int depth) {
        skip();
        if (at_ == end_) return fail("it ends too early");
        if (depth > most_depth) return fail("it is nested too deeply");
        if (++values_ > most_values) return fail("it has too many values");
        switch (*at_) {
            case '{': return value.kind_ = Json::Kind::object, read_object(value, depth);
            case '[': return value.kind_ = Json::Kind::list, read_list(value, depth);
            case '"': return value.kind_ = Json::Kind::text, read_text(value.text_);
            case 't': return value.kind_ = Json::Kind::boolean, value.number_ = 1, word("true");
            case 'f': return value.kind_ = Json::Kind::boolean, word("false");
            case 'n': return word("null");
            default: return value.kind_ = Json::Kind::number, read_number(value.number_);
        }
    }
    bool read_object(Json& value, int depth) {
        ++at_;
        if (take('}')) return true;
        do {
            skip();
            std::string key;
            if (at_ == end_ || *at_ != '"') return fail("a key is missing");
            if (!read_text(key)) return false;
            if (!take(':')) return fail("a colon is missing");
            value.members_.emplace_back(std::move(key), Json());
            if (!read(value.members_.back().second, depth + 1)) return false;
        } while (take(','));
        return take('}') || fail("an object does not end");
    }
    bool read_list(Json& value, int depth) {
        ++at_;
        if (take(']')) return true;
        do {
            value.items_.emplace_back();
            if (!read(value.items_.back(), depth + 1)) return false;
        } while (take(','));
        return take(']') || fail("a list does not end");
    }
    bool read_text(std::string& text) {
        ++at_;
        for (; at_ < end_ && *at_ != '"'; ++at_) {
            if (static_cast<unsigned char>(*at_) < 0x20) return fail("a control character in a text");
            if (*at_ != '\\') {
                text += *at_;
            } else if (!read_escape(text)) {
                return false;
            }
        }
        if (at_ == end_) return fail("a text does not end");
        ++at_;
        return true;
    }
    bool read_escape(std::string& text) {
        if (++at_ == end_) return fail("a text does not end");
        static constexpr std::string_view names = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
        if (const size_t i = names.find(*at_); i != names.npos) return text += meant[i], true;
        uint32_t point = 0;
        if (*at_ != 'u' || !read_unit(point)) return fail("an unknown escape");
        if (point >= 0xD800 && point < 0xDC00) {  // the first half of a pair
            uint32_t low = 0;
            if (end_ - at_ < 3 || at_[1] != '\\' || at_[2] != 'u') return fail("half a character");
            at_ += 2;
            if (!read_unit(low) || low < 0xDC00 || low > 0xDFFF) return fail("half a character");
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        } else if (point >= 0xDC00 && point <= 0xDFFF) {
            return fail("half a character");
        }
        append_utf8(text, point);
        return true;
    }
    // Four hexadecimal digits behind `at_`, which ends on the last.
    bool read_unit(uint32_t& unit) {
        if (end_ - at_ < 5) return false;
        for (int i = 0; i < 4; ++i) {
            const char c = *++at_;
            const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
            if (digit < 0) return false;
            unit = unit << 4 | uint32_t(digit);
        }
        return true;
    }
    static void append_utf8(std::string& text, uint32_t point) {
        if (point < 0x80) return void(text += char(point));
        const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
        static constexpr unsigned char first[] = {0, 0xC0, 0xE0, 0xF0};
        text += char(first[more] | point >> (6 * more));
        for (int i = more - 1; i >= 0; --i) text += char(0x80 | (point >> (6 * i) & 0x3F));
    }
    bool digit() const { return at_ < end_ && *at_ >= '0' && *at_ <= '9'; }
    // Digits go into `mantissa` while it has room; `exponent` counts the powers of ten that they are off.
    void digits(uint64_t& mantissa, int& count, int& exponent, bool fraction) {
        for (; digit(); ++at_) {
            const bool room = count < most_digits;
            if (room) mantissa = mantissa * 10 + uint64_t(*at_ - '0'), count += mantissa != 0;
            if (room == fraction && exponent > -most_exponent && exponent < most_exponent) exponent += fraction ? -1 : 1;
        }
    }
    bool read_number(double& value) {
        const bool negative = *at_ == '-';
        at_ += negative;
        if (!digit()) return fail("an unknown word");
        if (*at_ == '0' && at_ + 1 < end_ && at_[1] >= '0' && at_[1] <= '9') return fail("a number that begins with 0");
        uint64_t mantissa = 0;
        int count = 0, exponent = 0;
        digits(mantissa, count, exponent, false);
        if (at_ < end_ && *at_ == '.') {
            ++at_;
            if (!digit()) return fail("a number without digits");
            digits(mantissa, count, exponent, true);
        }
        if (at_ < end_ && (*at_ == 'e' || *at_ == 'E')) {
            ++at_;
            const bool down = at_ < end_ && *at_ == '-';
            at_ += at_ < end_ && (*at_ == '-' || *at_ == '+');
            if (!digit()) return fail("a number without digits");
            int given = 0;
            for (; digit(); ++at_) given = given < 10000 ? given * 10 + (*at_ - '0') : given;
            exponent += down ? -given : given;
        }
        // Powers of ten up to 22 are exact, and so is the quotient's or the product's rounding.
        const double scale = std::pow(10.0, std::fabs(double(exponent)));
        value = (exponent < 0 ? double(mantissa) / scale : double(mantissa) * scale) * (negative ? -1 : 1);
        return std::isfinite(value) || fail("a number that is too large");
    }
};

bool Json::parse(std::string_view text, Json& value, std::string& problem) {
    JsonParser parser(text);
    if (parser.whole(value)) return true;
    problem = parser.problem();
    return false;
}

const Json* Json::find(std::string_view key) const {
    for (const auto& [name, value] : members_)
        if (name == key) return &value;
    return nullptr;
}

bool Json::whole(int64_t least, int64_t most, int64_t& value) const {
    if (kind_ != Kind::number || !(number_ >= double(least) && number_ <= double(most)) || number_ != std::floor(number_)) return false;
    value = int64_t(number_);
    return true;
}

}  // namespace edgekit
