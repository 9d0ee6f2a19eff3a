//! flextron-run: generates token ids from a bundle at a latency target.
#include "arguments.h"

#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>

namespace
{

constexpr int kUsage = 2;

struct Close
{
    void operator()(FlextronRunner* runner) const noexcept
    {
        flextronClose(runner);
    }
};

//! Receives the tokens of a generation.
struct Output
{
    bool print{};
    std::vector<std::int64_t> tokens;
};

int receive(std::int64_t token, void* user)
{
    auto& output = *static_cast<Output*>(user);
    if (output.print)
    {
        std::printf(output.tokens.empty() ? "%lld" : ",%lld", static_cast<long long>(token));
        std::fflush(stdout);
    }
    output.tokens.push_back(token);
    return 0;
}

int report(FlextronStatus status)
{
    std::fprintf(stderr, "error: %s\n", flextronLastError());
    return static_cast<int>(status);
}

//! A number as JSON writes it, which knows no NaN.
std::string jsonNumber(double value)
{
    return std::isnan(value) ? "null" : std::to_string(value);
}

void printJson(Output const& output, char const* selection, FlextronTimings const& timings)
{
    std::string tokens;
    for (auto const token : output.tokens)
    {
        tokens += (tokens.empty() ? "" : ", ") + std::to_string(token);
    }
    std::printf("{\"tokens\": [%s], \"selection\": %s, \"timings\": {\"prompt_tokens\": %lld, \"tokens\": %lld, "
                "\"first_token_ms\": %s, \"p50\": %s, \"p95\": %s, \"stopped_by\": \"%s\"}}\n",
        tokens.c_str(), selection, static_cast<long long>(timings.promptTokens),
        static_cast<long long>(timings.tokens), jsonNumber(timings.firstTokenMs).c_str(),
        jsonNumber(timings.p50).c_str(), jsonNumber(timings.p95).c_str(), timings.stoppedBy);
}

void printSummary(FlextronTimings const& timings)
{
    std::printf("\n");
    std::fflush(stdout);
    std::fprintf(stderr, "%lld tokens; first after %.1f ms", static_cast<long long>(timings.tokens),
        timings.firstTokenMs);
    if (!std::isnan(timings.p50))
    {
        std::fprintf(stderr, ", then p50 %.2f ms and p95 %.2f ms per token", timings.p50, timings.p95);
    }
    std::fprintf(stderr, "\n");
}

void showProgress(std::size_t done, std::size_t total, void*)
{
    std::fprintf(stderr, "measuring budgets: %zu of %zu lengths\n", done, total);
}

//! Measures; says where the table is.
FlextronStatus calibrate(FlextronRunner* runner, Arguments const& arguments)
{
    auto settings = arguments.filledCalibration();
    settings.progress = showProgress;
    char const* file = nullptr;
    auto const status = flextronCalibrate(runner, &settings, &file);
    if (status == FLEXTRON_OK && *file != '\0')
    {
        std::fprintf(stderr, "the latency table is %s\n", file);
    }
    return status;
}

FlextronStatus printNotes(FlextronRunner* runner)
{
    char const* notes = nullptr;
    auto const status = flextronNotes(runner, &notes);
    if (status == FLEXTRON_OK && *notes != '\0')
    {
        std::fprintf(stderr, "%s\n", notes);
    }
    return status;
}

//! Opens the bundle; if it is to be measured first, the target waits for that.
FlextronStatus open(Arguments const& arguments, FlextronRunner** runner)
{
    auto options = arguments.filledOptions();
    bool const selectLater = arguments.calibrate && arguments.budget.empty();
    options.latencyTarget = selectLater ? nullptr : options.latencyTarget;
    auto status = flextronOpen(arguments.bundle.c_str(), &options, runner);
    if (status == FLEXTRON_OK && arguments.calibrate)
    {
        status = calibrate(*runner, arguments);
    }
    if (status == FLEXTRON_OK && selectLater && !arguments.latencyTarget.empty())
    {
        status = flextronSelect(*runner, arguments.latencyTarget.c_str());
    }
    return status;
}

int run(Arguments const& arguments)
{
    FlextronRunner* opened = nullptr;
    auto const openStatus = open(arguments, &opened);
    std::unique_ptr<FlextronRunner, Close> const runner(opened);
    if (openStatus != FLEXTRON_OK)
    {
        return report(openStatus);
    }
    if (auto const status = printNotes(runner.get()); status != FLEXTRON_OK)
    {
        return report(status);
    }
    if (arguments.ids.empty())
    {
        return 0;
    }
    char const* selection = nullptr;
    if (auto const status = flextronSelection(runner.get(), &selection); status != FLEXTRON_OK)
    {
        return report(status);
    }
    char const* explanation = nullptr;
    if (auto const status = flextronExplanation(runner.get(), &explanation); status != FLEXTRON_OK)
    {
        return report(status);
    }
    if (!arguments.json)
    {
        std::fprintf(stderr, "%s\n", explanation);
    }
    Output output{!arguments.json, {}};
    FlextronTimings timings{};
    timings.structSize = sizeof(timings);
    if (auto const status = flextronGenerate(runner.get(), arguments.ids.data(), arguments.ids.size(),
            &arguments.generation, receive, &output, &timings);
        status != FLEXTRON_OK)
    {
        return report(status);
    }
    if (arguments.json)
    {
        printJson(output, selection, timings);
    }
    else
    {
        printSummary(timings);
    }
    return 0;
}

} // namespace

int main(int count, char** words)
{
    try
    {
        auto const arguments = parseArguments({words + 1, words + count});
        if (arguments.help)
        {
            std::fputs(helpText(), stdout);
            return 0;
        }
        return run(arguments);
    }
    catch (UsageError const& error)
    {
        std::fprintf(stderr, "error: %s\n  next: flextron-run --help\n", error.what());
        return kUsage;
    }
    catch (std::exception const& error)
    {
        std::fprintf(stderr, "error: %s\n", error.what());
        return FLEXTRON_ERROR;
    }
}
