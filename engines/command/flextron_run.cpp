//! flextron-run: generates text from a bundle at a latency target.
#include "arguments.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

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

//! Receives the answer.
struct Output
{
    bool print{};
    std::vector<std::int64_t> tokens;
    std::string text;
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

int receiveText(std::int64_t token, char const* text, void* user)
{
    auto& output = *static_cast<Output*>(user);
    if (output.print)
    {
        std::fputs(text, stdout);
        std::fflush(stdout);
    }
    if (token >= 0)
    {
        output.tokens.push_back(token);
    }
    output.text += text;
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

//! A text as JSON writes it.
std::string jsonString(std::string const& text)
{
    constexpr std::size_t kEscape = 8;
    std::string quoted = "\"";
    for (char const c : text)
    {
        if (static_cast<unsigned char>(c) < ' ')
        {
            std::array<char, kEscape> escape{};
            std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
            quoted += escape.data();
        }
        else
        {
            quoted.append(c == '"' || c == '\\' ? "\\" : "").push_back(c);
        }
    }
    return quoted + "\"";
}

//! \param text whether the answer is text too.
void printJson(Output const& output, bool text, char const* selection, FlextronTimings const& timings)
{
    std::string tokens;
    for (auto const token : output.tokens)
    {
        tokens += (tokens.empty() ? "" : ", ") + std::to_string(token);
    }
    auto const written = text ? "\"text\": " + jsonString(output.text) + ", " : "";
    std::printf("{%s\"tokens\": [%s], \"selection\": %s, \"timings\": {\"prompt_tokens\": %lld, \"tokens\": %lld, "
                "\"first_token_ms\": %s, \"p50\": %s, \"p95\": %s, \"stopped_by\": \"%s\"}}\n",
        written.c_str(), tokens.c_str(), selection, static_cast<long long>(timings.promptTokens),
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

//! The text of the prompt; UsageError if its file cannot be read.
std::string promptText(Arguments const& arguments)
{
    if (arguments.prompt)
    {
        return *arguments.prompt;
    }
    std::ifstream file;
    bool const standard = arguments.promptFile == "-";
    if (!standard)
    {
        file.open(arguments.promptFile, std::ios::binary);
    }
    std::istream& stream = standard ? std::cin : file;
    std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (stream.bad() || (!standard && !file.is_open()))
    {
        throw UsageError("--prompt-file: " + arguments.promptFile + " cannot be read.");
    }
    if (text.find('\0') != std::string::npos)
    {
        throw UsageError("--prompt-file: " + arguments.promptFile + " is no text.");
    }
    return text;
}

//! The ids of the prompt.
FlextronStatus promptIds(FlextronRunner* runner, Arguments const& arguments, std::vector<std::int64_t>& ids)
{
    if (!arguments.ids.empty())
    {
        ids = arguments.ids;
        return FLEXTRON_OK;
    }
    std::int64_t const* found = nullptr;
    std::size_t count = 0;
    auto const status = flextronEncode(runner, promptText(arguments).c_str(), &found, &count);
    if (status == FLEXTRON_OK)
    {
        ids.assign(found, found + count);
    }
    return status;
}

//! Generates, and prints the answer with what it took.
FlextronStatus generate(FlextronRunner* runner, Arguments const& arguments)
{
    std::vector<std::int64_t> ids;
    char const* selection = nullptr;
    char const* explanation = nullptr;
    auto status = promptIds(runner, arguments, ids);
    status = status == FLEXTRON_OK ? flextronRoute(runner, ids.data(), ids.size()) : status;
    status = status == FLEXTRON_OK ? flextronSelection(runner, &selection) : status;
    status = status == FLEXTRON_OK ? flextronExplanation(runner, &explanation) : status;
    if (status != FLEXTRON_OK)
    {
        return status;
    }
    if (!arguments.json)
    {
        std::fprintf(stderr, "%s\n", explanation);
    }
    Output output{!arguments.json, {}, {}};
    bool const text = arguments.ids.empty();
    FlextronTimings timings{};
    timings.structSize = sizeof(timings);
    auto const& settings = arguments.generation;
    status = text ? flextronGenerateText(runner, ids.data(), ids.size(), &settings, receiveText, &output, &timings)
                  : flextronGenerate(runner, ids.data(), ids.size(), &settings, receive, &output, &timings);
    if (status != FLEXTRON_OK)
    {
        return status;
    }
    if (arguments.json)
    {
        printJson(output, text, selection, timings);
    }
    else
    {
        printSummary(timings);
    }
    return FLEXTRON_OK;
}

int run(Arguments const& arguments)
{
    FlextronRunner* opened = nullptr;
    auto status = open(arguments, &opened);
    std::unique_ptr<FlextronRunner, Close> const runner(opened);
    status = status == FLEXTRON_OK ? printNotes(opened) : status;
    if (status == FLEXTRON_OK && arguments.withPrompt)
    {
        status = generate(opened, arguments);
    }
    return status == FLEXTRON_OK ? 0 : report(status);
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
