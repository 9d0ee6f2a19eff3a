//! Which engine serves a call and where its tensors lie, on the vectors that every implementation shares; which engines
//! must not run.
#include "cuda_driver.h"
#include "engine_binding.h"
#include "error.h"

#include <doctest/doctest.h>

using namespace flextron;

namespace
{

Json const& vectors()
{
    static Json const kVectors = readObject(FLEXTRON_BINDING_VECTORS);
    return kVectors;
}

Manifest manifest()
{
    Manifest found;
    found.architecture = Architecture::fromJson(vectors()["architecture"]);
    found.candidates = Candidates::fromJson(vectors()["candidates"]);
    for (auto const& budget : vectors()["budgets"])
    {
        found.budgets.push_back(Budget::fromJson(budget));
    }
    return found;
}

EngineRecord record(std::string const& layout)
{
    return EngineRecord::fromJson(vectors()["records"][layout]);
}

void checkCase(Manifest const& model, Json const& expected)
{
    constexpr std::int64_t kHalf = 2;
    auto const& sizes = expected["step"];
    StepShape const step{sizes[0], sizes[1], sizes[2], sizes[3]};
    auto const name = expected["budget"].get<std::string>();
    auto const budget = std::find_if(
        model.budgets.begin(), model.budgets.end(), [&name](Budget const& each) { return each.name == name; });
    auto const engine = record(expected["layout"]);
    if (expected.contains("error"))
    {
        CHECK_THROWS_AS(static_cast<void>(bind(model, engine, *budget, step)), Error);
        return;
    }
    auto const found = bind(model, engine, *budget, step);
    CHECK(found.plan == expected["plan"].get<std::string>());
    CHECK(found.profile == expected["profile"].get<std::int64_t>());
    CHECK(Json(found.shapes) == expected["shapes"]);
    CHECK(Json(found.logits) == expected["logits"]);
    CHECK(Json(found.weights) == expected["weights"]);
    CHECK(Json(found.choices) == expected["choices"]);
    REQUIRE(found.caches.size() == expected["in_place"].size());
    for (auto const& cache : found.caches)
    {
        CHECK(expected["in_place"].at(cache) == cache + ".out");
    }
    auto const places = cacheLayout(model.architecture, kHalf, *budget, step);
    CHECK(Json(places.offsets) == expected["cache_offsets"]);
    CHECK(places.bytes == expected["cache_bytes"].get<std::size_t>());
}

} // namespace

TEST_CASE("binding vectors")
{
    auto const model = manifest();
    REQUIRE(vectors()["cases"].size() > 30);
    for (auto const& expected : vectors()["cases"])
    {
        CAPTURE(expected.dump());
        checkCase(model, expected);
    }
    auto const engine = record("shared");
    for (auto const& [tokens, capacity] : vectors()["capacities"].items())
    {
        CHECK(engine.fittingCapacity(std::stoll(tokens)) == capacity.get<std::int64_t>());
    }
    CHECK_THROWS_WITH_AS(static_cast<void>(engine.fittingCapacity(129)), doctest::Contains("up to 128"), Error);
}

TEST_CASE("a damaged engine record is refused")
{
    auto const good = vectors()["records"]["shared"];
    for (auto const* key : {"format", "version", "target", "library_version", "layout", "compute_capabilities",
             "max_batch", "max_length", "source", "plans"})
    {
        CAPTURE(key);
        auto damaged = good;
        damaged.erase(key);
        CHECK_THROWS_AS(static_cast<void>(EngineRecord::fromJson(damaged)), JsonError);
        damaged[key] = -1.5;
        CHECK_THROWS_AS(static_cast<void>(EngineRecord::fromJson(damaged)), JsonError);
    }
    auto outside = good;
    for (auto const* name : {"../64.plan", "/etc/passwd", "..", "a/b", ""})
    {
        CAPTURE(name);
        outside["plans"][0]["file"] = name;
        CHECK_THROWS_AS(static_cast<void>(EngineRecord::fromJson(outside)), JsonError);
        auto plugin = good;
        plugin["plugins"] = {{name, {{"bytes", 1}, {"sha256", ""}}}};
        CHECK_THROWS_AS(static_cast<void>(EngineRecord::fromJson(plugin)), JsonError);
    }
    auto newer = good;
    newer["version"] = 2;
    CHECK_THROWS_WITH_AS(static_cast<void>(EngineRecord::fromJson(newer)), doctest::Contains("newer"), JsonError);
}

TEST_CASE("CUDA is not used where there is no device")
{
    if (!findGpu())
    {
        CHECK_THROWS_WITH_AS(Cuda(), doctest::Contains("no NVIDIA GPU"), Error);
    }
}
