//! Reading JSON that may be damaged: every accessor throws JsonError, whose message becomes part of a sentence.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace flextron
{

using Json = nlohmann::json;

//! The text is no JSON, or a value is not of the kind that belongs there.
class JsonError : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

//! Parses an object; a name that occurs twice in one object is an error, as its meaning would be a matter of luck.
[[nodiscard]] Json parseObject(std::string_view text);

//! Reads a regular file that holds an object.
[[nodiscard]] Json readObject(std::filesystem::path const& file);

//! Member of an object; JsonError names the key if it is missing.
[[nodiscard]] Json const& member(Json const& object, char const* key);

[[nodiscard]] std::string readString(Json const& value, std::string_view what);
[[nodiscard]] bool readBool(Json const& value, std::string_view what);
[[nodiscard]] double readNumber(Json const& value, std::string_view what);

//! Nothing is rounded or read out of a text.
[[nodiscard]] std::int64_t readInteger(Json const& value, std::string_view what);
[[nodiscard]] std::vector<std::int64_t> readIntegers(Json const& value, std::string_view what);

} // namespace flextron
