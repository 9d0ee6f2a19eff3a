//! What a prompt router reads, and which budget its choice leads to.
#include "prompt_router.h"

#include <doctest/doctest.h>

using namespace flextron;

namespace
{

//! Three budgets of one layer, up to 4 groups and 100 neurons.
Manifest manifest()
{
    Manifest found;
    found.candidates = {{2, 4}, {50, 100}};
    found.budgets = {{"wide", {{4, 100}}, {}}, {"tall", {{4, 50}}, {}}, {"small", {{2, 50}}, {}}};
    return found;
}

Numbers milliseconds(double value)
{
    return {value, {}, {}};
}

//! At 8 ms: `wide` is too slow, `tall` is best.
Selection selection()
{
    return {"tall", "", milliseconds(8),
        {{"wide", milliseconds(16), "over-target", ""}, {"small", milliseconds(4), "lower-quality", ""}}, true};
}

} // namespace

TEST_CASE("a target is one-hot, or a blend of its neighbours")
{
    std::vector<double> const targets{1, 0.75, 0.5};
    CHECK(encodeTarget(targets, 1) == std::vector<float>{1, 0, 0});
    CHECK(encodeTarget(targets, 0.75) == std::vector<float>{0, 1, 0});
    CHECK(encodeTarget(targets, 0.875) == std::vector<float>{0.5, 0.5, 0});
    CHECK(encodeTarget(targets, 0.5) == std::vector<float>{0, 0, 1});
}

TEST_CASE("the share is that of the widest budget")
{
    auto const target = LatencyTarget::parse("8ms");
    CHECK(shareOf(selection(), target, manifest()) == 0.5);
    auto missed = selection();
    missed.met = false;
    CHECK_FALSE(shareOf(missed, target, manifest()).has_value());
    auto unmeasured = selection();
    unmeasured.rejected[0].numbers.reset();
    CHECK_FALSE(shareOf(unmeasured, target, manifest()).has_value());
    CHECK_FALSE(shareOf(selection(), LatencyTarget::parse("1MB"), manifest()).has_value());
}

TEST_CASE("the nearest budget that meets the target is taken")
{
    auto const target = LatencyTarget::parse("8ms");
    auto const small = nearest(selection(), target, {{2, 50}}, manifest());
    CHECK(small.budget == "small");
    CHECK(small.reason.find("of 2 that meet 8 ms per token") != std::string::npos);
    REQUIRE(small.rejected.size() == 2);
    CHECK((small.rejected[0].budget == "tall" && small.rejected[0].why == "other-prompts"));
    CHECK((small.rejected[1].budget == "wide" && small.rejected[1].why == "over-target"));
    CHECK(nearest(selection(), target, {{4, 100}}, manifest()).budget == "tall");
    CHECK(nearest(selection(), target, {{3, 50}}, manifest()).budget == "tall"); // of equal ones, the better
}
