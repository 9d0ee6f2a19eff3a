#include "error.h"
#include "latency_target.h"

#include <doctest/doctest.h>
#include <vector>

using flextron::Error;
using flextron::LatencyTarget;

namespace
{

struct Case
{
    char const* text;
    std::optional<double> msPerToken{};
    std::optional<double> firstTokenMs{};
    std::optional<std::int64_t> promptLength{};
    std::optional<double> memoryBytes{};
};

} // namespace

TEST_CASE("targets are read")
{
    std::vector<Case> const cases{
        {"20ms", 20.0},
        {" 20 ms/token ", 20.0},
        {"20ms / tok", 20.0},
        {"0.5s", 500.0},
        {".5 S", 500.0},
        {"800us", 800 * 1e-3},
        {"1e1ms", 10.0},
        {"50tok/s", 20.0},
        {"0.5 tokens / S", 2000.0},
        {"300ms@128", {}, 300.0, 128},
        {"0.3s ttft@128", {}, 300.0, 128},
        {"512MB", {}, {}, {}, 512e6},
        {"1.5GiB", {}, {}, {}, 1.5 * 1073741824},
        {"20ms, 300ms@128, 1GB", 20.0, 300.0, 128, 1e9},
    };
    for (auto const& expected : cases)
    {
        CAPTURE(expected.text);
        auto const found = LatencyTarget::parse(expected.text);
        CHECK(found.msPerToken == expected.msPerToken);
        CHECK(found.firstTokenMs == expected.firstTokenMs);
        CHECK(found.promptLength == expected.promptLength);
        CHECK(found.memoryBytes == expected.memoryBytes);
    }
}

TEST_CASE("other targets are refused with a hint")
{
    for (auto const* text : {"", "fast", "20", "20 parsecs", "0ms", "-5ms", "20ms,", ",20ms", "20ms,30ms", "5MB/token",
             "5MB@3", "5.ms", "1.2.3ms", "20ms/", "20ms@", "20ms ttft", "1e999ms", "1e999GB", "300ms@0", "nan ms",
             "20ms@99999999999999999999", "20ms x", "0tok/s", "1e999tok/s", "50tok", "50tok/ms", "50tok/s@128", "20ms,50tok/s"})
    {
        CAPTURE(text);
        CHECK_THROWS_WITH_AS(
            static_cast<void>(LatencyTarget::parse(text)), doctest::Contains("write 20ms"), Error);
    }
}

TEST_CASE("a target says what it wants")
{
    CHECK(LatencyTarget::parse("20ms,1500ms@128,8256000b").text()
        == "20 ms per token and 1500 ms to the first token of a 128-token prompt and 8.256 MB of memory");
}
