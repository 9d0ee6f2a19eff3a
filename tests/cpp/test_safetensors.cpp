#include "error.h"
#include "json.h"
#include "safetensors.h"
#include "temporary_directory.h"

#include <doctest/doctest.h>
#include <vector>

using namespace flextron;

namespace
{

std::string file(std::string const& header, std::string const& data, std::uint64_t extra = 0)
{
    auto const length = header.size() + extra;
    std::string text;
    for (unsigned int i = 0; i < 8; ++i)
    {
        text += static_cast<char>((length >> (8 * i)) & 255U);
    }
    return text + header + data;
}

std::string const kHeader = R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                            R"("b":{"dtype":"F16","shape":[],"data_offsets":[8,10]},"__metadata__":{"x":"y"}})";
std::string const kData = "0123456789";

std::map<std::string, TensorInfo> read(std::string const& text)
{
    // A buffer of exactly this size, so that the sanitizer sees every read beyond it.
    std::vector<char> const bytes(text.begin(), text.end());
    return readSafetensorsHeader(std::as_bytes(std::span(bytes)));
}

} // namespace

TEST_CASE("tensors are views into the file")
{
    TemporaryDirectory const directory;
    SafetensorsFile const opened(directory.write("file", file(kHeader, kData)));
    CHECK(opened.tensors().size() == 2);
    CHECK(opened.tensors().at("a").shape == std::vector<std::int64_t>{2, 1});
    CHECK(opened["b"].size() == 2);
    CHECK(opened["b"][0] == std::byte{'8'});
}

TEST_CASE("every truncation is refused")
{
    auto const whole = file(kHeader, kData);
    CHECK(read(whole).size() == 2);
    for (std::size_t size = 0; size < whole.size(); ++size)
    {
        CAPTURE(size);
        CHECK_THROWS_AS(static_cast<void>(read(whole.substr(0, size))), JsonError);
    }
    CHECK_THROWS_AS(static_cast<void>(read(whole + "x")), JsonError);
}

TEST_CASE("no changed byte of the header is fatal")
{
    auto const whole = file(kHeader, kData);
    for (std::size_t at = 0; at < whole.size() - kData.size(); ++at)
    {
        for (unsigned int bit = 0; bit < 8; ++bit)
        {
            auto changed = whole;
            changed[at] = static_cast<char>(static_cast<unsigned char>(changed[at]) ^ (1U << bit));
            try
            {
                for (auto const& [name, info] : read(changed))
                {
                    CHECK(info.offset + info.length <= changed.size());
                }
            }
            catch (JsonError const&) // is the other good answer
            {
            }
        }
    }
}

TEST_CASE("headers that lie are refused")
{
    auto const entry = [](std::string const& dtype, std::string const& shape, std::string const& offsets)
    { return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}"; };
    std::vector<std::string> const headers{
        "{}",
        "[]",
        entry("F32", "[2]", "[0,4]"),
        entry("F32", "[2]", "[8,0]"),
        entry("F32", "[-2]", "[0,8]"),
        entry("F32", "[2]", "[2,10]"),
        entry("F33", "[2]", "[0,8]"),
        entry("F32", "[2]", "[0]"),
        entry("F32", "[2.0]", "[0,8]"),
        entry("F32", "[4611686018427387904,4]", "[0,0]"),
        entry("U8", "[9223372036854775807]", "[0,9223372036854775807]"),
        entry("U8", "[9223372036854775807]", "[9223372036854775807,9223372036854775807]"),
        R"({"a":{"dtype":"U8","shape":[10],"data_offsets":[0,10]},)"
        R"("a":{"dtype":"U8","shape":[10],"data_offsets":[0,10]}})",
        R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
        R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
    };
    for (auto const& header : headers)
    {
        CAPTURE(header);
        CHECK_THROWS_AS(static_cast<void>(read(file(header, kData))), JsonError);
    }
    CHECK_THROWS_AS(static_cast<void>(read(file(kHeader, kData, 1'000'000))), JsonError);
    CHECK_THROWS_AS(static_cast<void>(read(file(kHeader, kData, ~std::uint64_t{0} - kHeader.size()))), JsonError);
}

TEST_CASE("a file that cannot be read is named")
{
    TemporaryDirectory const directory;
    for (auto const& path : {directory.path(), directory.path() / "none", directory.write("empty", "")})
    {
        CAPTURE(path.string());
        CHECK_THROWS_WITH_AS(SafetensorsFile{path}, doctest::Contains(path.c_str()), Error);
    }
}
