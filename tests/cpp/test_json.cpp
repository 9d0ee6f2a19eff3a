#include "device.h"
#include "json.h"
#include "temporary_directory.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

using namespace flextron;

TEST_CASE("only objects with distinct names are read")
{
    CHECK(parseObject(R"({"a": {"a": 1}, "b": [2]})")["b"][0] == 2);
    for (auto const* text : {"", "{", "[]", "1", "null", R"({"a": 1, "a": 2})", R"({"a": {"b": 1, "b": 2}})",
             "{\"a\": \"\xff\"}", R"({"a": NaN})", R"({"a": 1} x)"})
    {
        CAPTURE(text);
        CHECK_THROWS_AS(static_cast<void>(parseObject(text)), JsonError);
    }
}

TEST_CASE("deep nesting is refused, not followed")
{
    std::string const deep = "{\"a\": " + std::string(200'000, '[');
    CHECK_THROWS_AS(static_cast<void>(parseObject(deep)), JsonError);
}

TEST_CASE("numbers are neither rounded nor read out of a text")
{
    auto const value = parseObject(
        R"({"one": 1, "half": 1.5, "whole": 1.0, "text": "1", "true": true, "large": 9223372036854775808})");
    CHECK(readInteger(value["one"], "it") == 1);
    for (auto const* name : {"half", "whole", "text", "true", "large"})
    {
        CAPTURE(name);
        CHECK_THROWS_WITH_AS(
            static_cast<void>(readInteger(value[name], "it")), doctest::Contains("it is "), JsonError);
    }
    CHECK(readNumber(value["one"], "it") == 1.0);
    CHECK_THROWS_AS(static_cast<void>(readNumber(value["true"], "it")), JsonError);
    CHECK_THROWS_WITH_AS(static_cast<void>(member(value, "none")), "'none' is missing", JsonError);
}

TEST_CASE("a directory, a pipe or nothing is no file")
{
    TemporaryDirectory const directory;
    auto const pipe = directory.path() / "pipe";
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    CHECK_THROWS_AS(static_cast<void>(readObject(pipe)), JsonError);
    CHECK_THROWS_AS(static_cast<void>(readObject(directory.path())), JsonError);
    CHECK_THROWS_AS(static_cast<void>(readObject(directory.path() / "none")), JsonError);
    CHECK(readObject(directory.write("good", R"({"a": 1})"))["a"] == 1);
}

TEST_CASE("the text that is hashed is Python's")
{
    auto const value = parseObject(R"({"b": [1, 2.5, 2.0, null, true], "a": {"é\u007f\n": "x"}, "c": [], "d": {}})");
    CHECK(pythonJson(value)
        == R"({"a": {"\u00e9\u007f\n": "x"}, "b": [1, 2.5, 2.0, null, true], "c": [], "d": {}})");
}
