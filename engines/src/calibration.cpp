#include "calibration.h"

#include "error.h"
#include "precision.h"
#include "random.h"
#include "sampling.h"
#include "sequence.h"
#include "stopwatch.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <numeric>

namespace flextron
{

namespace
{

constexpr std::int64_t kLeastRepeats = 6;
//! Decode steps per turn of a budget. The first is not counted: it fetches the weights that the last budget's turn
//! drove out of the processor's caches, which does not happen in a running generation.
constexpr std::int64_t kBurst = 4;
//! How the token of a measured step is chosen: what most users ask for, and no cheaper than a greedy choice.
constexpr Sampling kSampling{.temperature = 1.0, .topP = 0.95};

//! Ascending lengths, none beyond what the model holds.
std::vector<std::int64_t> cut(char const* name, std::vector<std::int64_t> lengths, std::int64_t most)
{
    if (lengths.empty() || *std::min_element(lengths.begin(), lengths.end()) < 1)
    {
        throw inputError("A " + std::string(name) + " must be at least 1, and there must be one.",
            "leave the lengths out, or write them like 64,256,1024");
    }
    std::for_each(lengths.begin(), lengths.end(), [most](std::int64_t& n) { n = std::min(n, most); });
    std::sort(lengths.begin(), lengths.end());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
    return lengths;
}

std::vector<std::int64_t> randomTokens(std::int64_t count, std::int64_t vocabulary)
{
    Random random(0);
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(count));
    for (auto& token : tokens)
    {
        token = static_cast<std::int64_t>(random.uniform() * static_cast<double>(vocabulary));
    }
    return tokens;
}

//! The measuring itself. Every budget is warmed up when it is first used, and its private memory noted.
class Rounds
{
public:
    //! \param seconds about how long each of the measurements below may take.
    Rounds(Session& session, Manifest const& manifest, std::int64_t most, double seconds)
        : mSession(session)
        , mMost(most)
        , mSeconds(seconds)
        , mTokens(randomTokens(most, manifest.architecture.vocabSize))
    {
        constexpr int kWarm = 2;
        auto const common = session.memory();
        for (auto const& budget : manifest.budgets)
        {
            auto const before = session.memory();
            for (int i = 0; i < kWarm; ++i)
            {
                fresh(budget).append(tokens(0, std::min<std::int64_t>(2, most)));
            }
            mTurns.push_back({&budget, fresh(budget), common + session.memory() - before});
        }
    }

    //! Per budget, decode steps after which the cache holds `context` tokens, each with the choice of a token.
    std::vector<Timing> decode(std::int64_t context, std::int64_t repeats)
    {
        for (auto& turn : mTurns)
        {
            // Really filled: untouched memory would be read faster than a cache in use.
            turn.sequence.append(tokens(turn.sequence.length(), context - 1));
            turn.sequence.reserve(context);
        }
        return rounds(context, (repeats + kBurst - 2) / (kBurst - 1),
            [this, context](Turn& turn, std::vector<double>& samples)
            {
                for (std::int64_t i = 0; i < kBurst; ++i)
                {
                    // The same step again, after another token: one may cost more than another.
                    turn.sequence.cut(context - 1);
                    auto const at = (context - 1 + ++turn.steps) % mMost;
                    Stopwatch const watch;
                    static_cast<void>(kSampling.choose(turn.sequence.append(tokens(at, at + 1)), mRandom));
                    if (i > 0)
                    {
                        samples.push_back(watch.milliseconds());
                    }
                }
            });
    }

    //! Per budget, from nothing to the token chosen after a prompt.
    std::vector<Timing> firstToken(std::int64_t prompt, std::int64_t repeats)
    {
        return rounds(prompt, repeats,
            [this, prompt](Turn& turn, std::vector<double>& samples)
            {
                Stopwatch const watch;
                auto sequence = fresh(*turn.budget);
                static_cast<void>(kSampling.choose(sequence.append(tokens(0, prompt)), mRandom));
                samples.push_back(watch.milliseconds());
            });
    }

    [[nodiscard]] std::int64_t privateMemory(std::size_t budget) const
    {
        return mTurns[budget].privateMemory;
    }

private:
    struct Turn
    {
        Budget const* budget;
        Sequence sequence;
        std::int64_t privateMemory;
        std::int64_t steps{};
    };

    using Measure = std::function<void(Turn&, std::vector<double>&)>;

    [[nodiscard]] Sequence fresh(Budget const& budget)
    {
        return {mSession, budget, mMost, kChunk};
    }

    [[nodiscard]] std::span<std::int64_t const> tokens(std::int64_t from, std::int64_t to) const
    {
        auto const count = static_cast<std::size_t>(std::max<std::int64_t>(to - from, 0));
        return std::span(mTokens).subspan(count == 0 ? 0 : static_cast<std::size_t>(from), count);
    }

    std::vector<Timing> rounds(std::int64_t tokens, std::int64_t repeats, Measure const& measure)
    {
        std::vector<std::vector<double>> found(mTurns.size());
        for (auto& turn : mTurns)
        {
            std::vector<double> ignored; // warm: shapes of this size are prepared now
            measure(turn, ignored);
        }
        constexpr double kMilliseconds = 1e3;
        Stopwatch const watch;
        for (std::int64_t i = 0; i < repeats; ++i)
        {
            for (std::size_t b = 0; b < mTurns.size(); ++b)
            {
                measure(mTurns[b], found[b]);
            }
            if (watch.milliseconds() > mSeconds * kMilliseconds
                && static_cast<std::int64_t>(found.front().size()) >= kLeastRepeats)
            {
                break;
            }
        }
        std::vector<Timing> timings;
        std::transform(found.begin(), found.end(), std::back_inserter(timings),
            [tokens](std::vector<double> const& samples) { return Timing::of(tokens, samples); });
        return timings;
    }

    Session& mSession;
    std::int64_t mMost;
    double mSeconds;
    std::vector<std::int64_t> mTokens;
    Random mRandom{0};
    std::vector<Turn> mTurns;
};

//! Bytes of KV cache per slot.
std::int64_t cacheBytes(Architecture const& architecture, Budget const& budget, std::int64_t elementSize)
{
    auto const add = [](std::int64_t sum, LayerWidth const& width) { return sum + width.groups; };
    auto const groups = std::accumulate(budget.layers.begin(), budget.layers.end(), std::int64_t{0}, add);
    return 2 * groups * architecture.headDim * elementSize;
}

//! The load average of the last minute; empty where the system does not tell.
Json loadAverage()
{
    constexpr double kHundredths = 100;
    double load = 0;
    return ::getloadavg(&load, 1) == 1 ? Json::array({std::round(load * kHundredths) / kHundredths}) : Json::array();
}

std::string now()
{
    constexpr std::size_t kLongest = 40;
    std::array<char, kLongest> text{};
    auto const time = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm parts{};
    ::gmtime_r(&time, &parts);
    return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S+00:00", &parts)};
}

Json conditionsOf(std::int64_t repeats, Json const& before)
{
    auto load = before;
    for (auto const& value : loadAverage())
    {
        load.push_back(value);
    }
    return {{"date", now()}, {"flextron_runtime", FLEXTRON_VERSION}, {"repeats", repeats},
        {"sampling",
            {{"temperature", kSampling.temperature}, {"top_k", kSampling.topK}, {"top_p", kSampling.topP},
                {"min_p", kSampling.minP}, {"repetition_penalty", kSampling.repetitionPenalty}}},
        {"load_average", load}};
}

} // namespace

LatencyTable calibrate(Session& session, Bundle const& bundle, Setup const& setup, Json const& device,
    CalibrationOptions const& options)
{
    constexpr std::int64_t kFirstTokens = 12;
    if (options.repeats < 1 || !(options.maxSeconds >= 0))
    {
        throw inputError(std::to_string(options.repeats) + " repeats in " + std::to_string(options.maxSeconds)
                + " seconds measure nothing.",
            "use 96 repeats in 60 seconds");
    }
    auto const& manifest = bundle.manifest();
    auto const most = std::min(manifest.architecture.maxPositions, session.maxCapacity());
    auto const contexts = cut("context length", options.contexts, most);
    auto const prompts = cut("prompt length", options.promptLengths, most);
    // Of what is in the session, not of an engine that is built while it is measured.
    auto const content = contentHash(bundle, setup);
    auto const before = loadAverage();
    auto const stages = contexts.size() + prompts.size();
    Rounds run(session, manifest, most, options.maxSeconds / static_cast<double>(stages));
    std::vector<BudgetCost> costs(manifest.budgets.size());
    std::size_t done = 0;
    auto const keep = [&](std::vector<Timing> const& timings, std::vector<Timing> BudgetCost::* kind)
    {
        for (std::size_t b = 0; b < costs.size(); ++b)
        {
            (costs[b].*kind).push_back(timings[b]);
        }
        ++done;
        if (options.progress)
        {
            options.progress(done, stages);
        }
    };
    for (auto const context : contexts)
    {
        keep(run.decode(context, options.repeats), &BudgetCost::decode);
    }
    for (auto const prompt : prompts)
    {
        keep(run.firstToken(prompt, std::max(options.repeats / kFirstTokens, kLeastRepeats)), &BudgetCost::firstToken);
    }
    LatencyTable table{device, setup.target, setup.layout, setup.dtype, content, conditionsOf(options.repeats, before), {}};
    auto const size = elementSize(setup.dtype);
    for (std::size_t b = 0; b < costs.size(); ++b)
    {
        auto const& budget = manifest.budgets[b];
        costs[b].parameters = budget.parameters(manifest.architecture);
        costs[b].weightBytes = std::max(run.privateMemory(b), weightBytes(manifest, setup.dtype, budget));
        costs[b].cacheBytes = cacheBytes(manifest.architecture, budget, size);
        table.budgets[budget.name] = std::move(costs[b]);
    }
    return table;
}

} // namespace flextron
