//! Selection, on the vectors that every implementation shares.
#include "error.h"
#include "selection.h"

#include <algorithm>
#include <doctest/doctest.h>
#include <random>

using namespace flextron;

namespace
{

Json const& vectors()
{
    static Json const kVectors = readObject(FLEXTRON_SELECTION_VECTORS);
    return kVectors;
}

template <typename Value>
std::optional<Value> optional(Json const& object, char const* key)
{
    return object.contains(key) && !object[key].is_null() ? std::optional(object[key].get<Value>()) : std::nullopt;
}

std::vector<Budget> budgetsOf(Json const& example)
{
    std::vector<Budget> budgets;
    for (auto const& budget : example["budgets"])
    {
        budgets.push_back(Budget::fromJson(budget));
    }
    return budgets;
}

Selection run(Json const& example, std::vector<Budget> const& budgets)
{
    auto const table = LatencyTable::fromJson(vectors()["tables"][example["table"].get<std::string>()]);
    auto const& limits = example["target"];
    LatencyTarget const target{optional<double>(limits, "ms_per_token"), optional<double>(limits, "first_token_ms"),
        optional<std::int64_t>(limits, "prompt_length"), optional<double>(limits, "memory_bytes")};
    return select(
        budgets, table, target, optional<std::int64_t>(example, "context"), example["best_effort"].get<bool>());
}

void checkNumbers(Json const& found, Json const& expected)
{
    constexpr double kTolerance = 1e-9;
    REQUIRE(found.size() == expected.size());
    for (auto const& [name, value] : expected.items())
    {
        CHECK(found.at(name).get<double>() == doctest::Approx(value.get<double>()).epsilon(kTolerance));
    }
}

void checkError(Json const& example, Json const& expected)
{
    try
    {
        auto const found = run(example, budgetsOf(example));
        FAIL("it selected ", found.budget);
    }
    catch (Error const& error)
    {
        auto const fits = expected["error"] == "no-budget-fits";
        CHECK(error.status() == (fits ? FLEXTRON_NO_BUDGET_FITS : FLEXTRON_INPUT_ERROR));
        for (auto const& name : expected["names"])
        {
            CHECK(std::string(error.what()).find(name.get<std::string>()) != std::string::npos);
        }
    }
}

} // namespace

TEST_CASE("selection vectors")
{
    REQUIRE(vectors()["cases"].size() > 20);
    for (auto const& example : vectors()["cases"])
    {
        CAPTURE(example["name"].get<std::string>());
        auto const& expected = example["expected"];
        if (expected.contains("error"))
        {
            checkError(example, expected);
            continue;
        }
        auto const found = run(example, budgetsOf(example)).toJson();
        CHECK(found["budget"] == expected["budget"]);
        CHECK(found["met"] == expected["met"]);
        checkNumbers(found["numbers"], expected["numbers"]);
        REQUIRE(found["rejected"].size() == expected["rejected"].size());
        for (std::size_t i = 0; i < expected["rejected"].size(); ++i)
        {
            CHECK(found["rejected"][i]["budget"] == expected["rejected"][i]["budget"]);
            CHECK(found["rejected"][i]["why"] == expected["rejected"][i]["why"]);
            checkNumbers(found["rejected"][i]["numbers"], expected["rejected"][i]["numbers"]);
        }
    }
}

TEST_CASE("the order of budgets does not matter")
{
    std::mt19937 random(0); // NOLINT: the same order every time
    for (auto const& example : vectors()["cases"])
    {
        if (example["expected"].contains("error"))
        {
            continue;
        }
        auto budgets = budgetsOf(example);
        auto const expected = run(example, budgets).toJson();
        for (int i = 0; i < 5; ++i)
        {
            std::shuffle(budgets.begin(), budgets.end(), random);
            CHECK(run(example, budgets).toJson() == expected);
        }
    }
}

TEST_CASE("the explanation has budget, target and numbers")
{
    auto const& example = vectors()["cases"][0];
    auto const found = run(example, budgetsOf(example));
    CHECK(found.reason
        == "p75 is the best budget that meets 7.5 ms per token: 7 ms per token (p95) at a context of 256 tokens.");
    CHECK(found.rejected[0].reason == "10 ms per token (p95) is over 7.5 ms per token");
    CHECK(found.rejected[1].reason.find("validation loss of 1.6000 instead of 1.8000") != std::string::npos);
}
