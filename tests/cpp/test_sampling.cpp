#include "error.h"
#include "json.h"
#include "random.h"
#include "sampling.h"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <map>
#include <vector>

using namespace flextron;

TEST_CASE("random numbers are those of numpy.random.default_rng")
{
    std::map<std::uint64_t, std::vector<double>> const expected{
        {0U, {0.6369616873214543, 0.2697867137638703, 0.04097352393619469}},
        {1U, {0.5118216247002567, 0.9504636963259353, 0.14415961271963373}},
        {12345678901234567890U, {0.004224879795573511, 0.6523439976170509, 0.6078805024233389}},
    };
    for (auto const& [seed, numbers] : expected)
    {
        CAPTURE(seed);
        Random random(seed);
        for (auto const number : numbers)
        {
            CHECK(random.uniform() == number);
        }
    }
}

TEST_CASE("greedy takes the first of the likeliest")
{
    std::vector<float> const logits{0, 3, -1, 3};
    Random random(0);
    CHECK(Sampling{}.choose(logits, random) == 1);
    CHECK(Sampling{1.0, 1}.choose(logits, random) == 1);
}

TEST_CASE("top-k and top-p leave out the unlikely")
{
    std::vector<float> const logits{0, 2, 1, -1};
    Random random(0);
    std::map<std::int64_t, int> topK;
    std::map<std::int64_t, int> topP;
    std::map<std::int64_t, int> all;
    for (int i = 0; i < 2000; ++i)
    {
        ++topK[Sampling{1.0, 2}.choose(logits, random)];
        ++topP[Sampling{1.0, 0, 0.7}.choose(logits, random)]; // the first has 0.64, the second reaches 0.7
        ++all[Sampling{1.0}.choose(logits, random)];
    }
    CHECK(topK.size() == 2);
    CHECK(topP.size() == 2);
    CHECK(all.size() == 4);
    CHECK(topK.contains(1));
    CHECK(topK.contains(2));
    auto const share = all[1] / 2000.0;
    CHECK(share == doctest::Approx(0.644).epsilon(0.05));
}

TEST_CASE("a tiny temperature is greedy, and logits that are not numbers are an error")
{
    Random random(0);
    CHECK(Sampling{1e-30}.choose(std::vector<float>{0, 2, 1}, random) == 1);
    std::vector<float> const logits{0, std::nanf("")};
    CHECK_THROWS_AS(static_cast<void>(Sampling{}.choose(logits, random)), Error);
}

TEST_CASE("settings that make no sense are all named")
{
    Sampling const sampling{std::numeric_limits<double>::quiet_NaN(), -1, 0};
    CHECK_THROWS_WITH_AS(sampling.validate(), doctest::Contains("top-k -1 is negative; top-p"), Error);
    CHECK_NOTHROW(Sampling{}.validate());
}

TEST_CASE("sampling vectors: the tokens that Python chooses")
{
    auto const vectors = readObject(FLEXTRON_SAMPLING_VECTORS);
    REQUIRE(vectors["cases"].size() > 10);
    for (auto const& example : vectors["cases"])
    {
        CAPTURE(example.dump());
        auto const logits = vectors["logits"][example["logits"].get<std::string>()].get<std::vector<float>>();
        auto const settings = example["settings"];
        Sampling const sampling{settings["temperature"], settings["top_k"], settings["top_p"], settings["min_p"],
            settings["repetition_penalty"]};
        auto seen = example["prompt"].get<std::set<std::int64_t>>();
        Random random(example["seed"].get<std::uint64_t>());
        std::vector<std::int64_t> tokens;
        for (std::size_t i = 0; i < example["tokens"].size(); ++i)
        {
            tokens.push_back(sampling.choose(logits, random, seen));
            seen.insert(tokens.back());
        }
        CHECK(tokens == example["tokens"].get<std::vector<std::int64_t>>());
    }
}
