#include "json.h"

#include <fstream>
#include <iterator>
#include <limits>
#include <set>

namespace flextron
{

namespace
{

//! What a damaged file may hold at a place is not repeated in full.
std::string excerpt(Json const& value)
{
    constexpr std::size_t kLongest = 60;
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() > kLongest ? text.substr(0, kLongest) + "..." : text;
}

[[noreturn]] void refuse(Json const& value, std::string_view what, char const* kind)
{
    throw JsonError(std::string(what) + " is " + excerpt(value) + ", no " + kind);
}

} // namespace

Json parseObject(std::string_view text)
{
    // The parser itself does not recurse; the limit keeps later recursive uses of the value (dump) within the stack.
    constexpr int kDeepest = 100;
    std::vector<std::set<std::string>> names;
    auto const check = [&names](int depth, Json::parse_event_t event, Json& parsed)
    {
        if (depth > kDeepest)
        {
            throw JsonError("it is nested too deeply");
        }
        if (event == Json::parse_event_t::object_start)
        {
            names.emplace_back();
        }
        else if (event == Json::parse_event_t::object_end)
        {
            names.pop_back();
        }
        else if (event == Json::parse_event_t::key && !names.back().insert(parsed.get<std::string>()).second)
        {
            throw JsonError("the name " + excerpt(parsed) + " occurs twice");
        }
        return true;
    };
    try
    {
        Json value = Json::parse(text.begin(), text.end(), check);
        if (!value.is_object())
        {
            throw JsonError("it holds no JSON object");
        }
        return value;
    }
    catch (Json::exception const& error)
    {
        throw JsonError(error.what());
    }
}

Json readObject(std::filesystem::path const& file)
{
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) // reading a pipe would wait for ever
    {
        throw JsonError("it is missing or no file");
    }
    std::ifstream stream(file, std::ios::binary);
    std::string const text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream.good() && !stream.eof())
    {
        throw JsonError("it cannot be read");
    }
    return parseObject(text);
}

Json const& member(Json const& object, char const* key)
{
    if (!object.is_object())
    {
        throw JsonError(excerpt(object) + " is no object with '" + key + "'");
    }
    auto const found = object.find(key);
    if (found == object.end())
    {
        throw JsonError("'" + std::string(key) + "' is missing");
    }
    return *found;
}

std::string readString(Json const& value, std::string_view what)
{
    if (!value.is_string())
    {
        refuse(value, what, "string");
    }
    return value.get<std::string>();
}

bool readBool(Json const& value, std::string_view what)
{
    if (!value.is_boolean())
    {
        refuse(value, what, "boolean");
    }
    return value.get<bool>();
}

double readNumber(Json const& value, std::string_view what)
{
    if (!value.is_number())
    {
        refuse(value, what, "number");
    }
    return value.get<double>();
}

std::int64_t readInteger(Json const& value, std::string_view what)
{
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > kLargest))
    {
        refuse(value, what, "integer");
    }
    return value.get<std::int64_t>();
}

std::vector<std::int64_t> readIntegers(Json const& value, std::string_view what)
{
    if (!value.is_array())
    {
        refuse(value, what, "list of integers");
    }
    std::vector<std::int64_t> numbers;
    numbers.reserve(value.size());
    for (auto const& number : value)
    {
        numbers.push_back(readInteger(number, what));
    }
    return numbers;
}

} // namespace flextron
