//! The C interface: turns exceptions into codes and messages.
#include "flextron/flextron.h"

#include "error.h"
#include "runner.h"
#include "sequence.h"
#include "timings.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct FlextronRunner
{
    FlextronRunner(char const* bundle, flextron::RunnerOptions options)
        : runner(bundle, std::move(options))
    {
    }

    flextron::Runner runner;
    std::string selection;
    std::string explanation;
    std::string file;
    std::string notes;
    std::vector<std::int64_t> ids;
    std::string text;
};

namespace
{

using flextron::Error;

//! Reserved once per thread, so that even running out of memory can be told.
constexpr std::size_t kLongestMessage = 8192;

char* lastError() noexcept
{
    thread_local char message[kLongestMessage] = "";
    return message;
}

FlextronStatus fail(FlextronStatus status, char const* message) noexcept
{
    auto* const text = lastError();
    std::strncpy(text, message, kLongestMessage - 1);
    text[kLongestMessage - 1] = '\0';
    return status;
}

//! Runs a call and translates what it throws.
template <typename Call>
FlextronStatus guarded(Call&& call) noexcept
{
    try
    {
        call();
        lastError()[0] = '\0';
        return FLEXTRON_OK;
    }
    catch (Error const& error)
    {
        return fail(error.status(), error.what());
    }
    catch (std::bad_alloc const&)
    {
        return fail(FLEXTRON_ERROR, "There is not enough memory.\n  next: use a narrower budget or a shorter context");
    }
    catch (std::exception const& error)
    {
        return fail(FLEXTRON_ERROR, error.what());
    }
    catch (...)
    {
        return fail(FLEXTRON_ERROR, "An unknown error occurred.");
    }
}

void require(bool given, char const* what)
{
    if (!given)
    {
        throw flextron::inputError(std::string(what) + " is NULL.");
    }
}

std::string text(char const* value)
{
    return value == nullptr ? "" : value;
}

//! A structure of a caller that was compiled with an older header is shorter; what it lacks takes the default.
template <typename Struct>
Struct completed(Struct const* given, void (*fill)(Struct*))
{
    Struct value;
    fill(&value);
    if (given != nullptr)
    {
        if (given->structSize < sizeof(std::size_t))
        {
            throw flextron::inputError("A structure has no structSize.", "fill it with its flextronDefault function");
        }
        std::memcpy(&value, given, std::min(given->structSize, sizeof(Struct)));
    }
    return value;
}

flextron::CalibrationMode calibrationMode(std::int32_t mode)
{
    switch (mode)
    {
    case FLEXTRON_CALIBRATE_AUTO: return flextron::CalibrationMode::kAuto;
    case FLEXTRON_CALIBRATE_NEVER: return flextron::CalibrationMode::kNever;
    case FLEXTRON_CALIBRATE_ALWAYS: return flextron::CalibrationMode::kAlways;
    default: throw flextron::inputError(std::to_string(mode) + " is no calibration mode.");
    }
}

flextron::CalibrationOptions calibrationOptions(FlextronCalibration const& given)
{
    flextron::CalibrationOptions options;
    if (given.contexts != nullptr)
    {
        options.contexts.assign(given.contexts, given.contexts + given.contextCount);
    }
    if (given.promptLengths != nullptr)
    {
        options.promptLengths.assign(given.promptLengths, given.promptLengths + given.promptLengthCount);
    }
    options.repeats = given.repeats;
    options.maxSeconds = given.maxSeconds;
    if (given.progress != nullptr)
    {
        options.progress
            = [progress = given.progress, user = given.user](std::size_t done, std::size_t total) { progress(done, total, user); };
    }
    return options;
}

flextron::RunnerOptions runnerOptions(FlextronOptions const& given)
{
    flextron::RunnerOptions options;
    options.latencyTarget = text(given.latencyTarget);
    options.budget = text(given.budget);
    options.layout = text(given.layout);
    options.dtype = text(given.dtype);
    options.latencyTable = text(given.latencyTable);
    options.onnxruntime = text(given.onnxruntime);
    options.tokenizers = text(given.tokenizers);
    options.target = text(given.target);
    options.library = text(given.library);
    options.threads = given.threads;
    options.chunk = given.chunk;
    if (given.context != 0)
    {
        options.context = given.context;
    }
    options.bestEffort = given.bestEffort != 0;
    options.lowMemory = given.lowMemory != 0;
    options.skipHashes = given.skipHashes != 0;
    options.calibration = calibrationMode(given.calibration);
    return options;
}

flextron::GenerationOptions generationOptions(FlextronGeneration const* generation)
{
    auto const given = completed(generation, flextronDefaultGeneration);
    return {given.maxNewTokens,
        {given.temperature, given.topK, given.topP, given.minP, given.repetitionPenalty}, given.seed,
        given.ignoreEos != 0};
}

void checkPrompt(FlextronRunner const* runner, std::int64_t const* prompt, std::size_t size)
{
    require(runner != nullptr, "The runner");
    require(prompt != nullptr || size == 0, "The prompt");
}

//! \param out may be null.
void writeTimings(flextron::Timings const& timings, FlextronTimings* out)
{
    if (out == nullptr)
    {
        return;
    }
    constexpr double kMedian = 50;
    constexpr double kTail = 95;
    FlextronTimings const value{out->structSize, timings.promptTokens, timings.tokens, timings.firstTokenMs,
        flextron::percentile(timings.tokenMs, kMedian), flextron::percentile(timings.tokenMs, kTail),
        timings.stoppedBy};
    std::memcpy(out, &value, std::min(out->structSize, sizeof(value)));
}

} // namespace

char const* flextronLastError(void)
{
    return lastError();
}

void flextronDefaultOptions(FlextronOptions* options)
{
    if (options != nullptr)
    {
        *options = {};
        options->structSize = sizeof(FlextronOptions);
        options->chunk = flextron::kChunk;
    }
}

void flextronDefaultGeneration(FlextronGeneration* generation)
{
    if (generation != nullptr)
    {
        constexpr std::int64_t kTokens = 64;
        *generation = {};
        generation->structSize = sizeof(FlextronGeneration);
        generation->maxNewTokens = kTokens;
        generation->topP = 1;
        generation->repetitionPenalty = 1;
    }
}

void flextronDefaultCalibration(FlextronCalibration* calibration)
{
    if (calibration != nullptr)
    {
        *calibration = {};
        calibration->structSize = sizeof(FlextronCalibration);
        calibration->repeats = flextron::kRepeats;
        calibration->maxSeconds = flextron::kMaxSeconds;
    }
}

FlextronStatus flextronOpen(char const* bundle, FlextronOptions const* options, FlextronRunner** runner)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The place for the runner");
            *runner = nullptr;
            require(bundle != nullptr, "The bundle's path");
            auto const given = completed(options, flextronDefaultOptions);
            auto opened = std::make_unique<FlextronRunner>(bundle, runnerOptions(given));
            *runner = opened.release(); // flextronClose deletes it
        });
}

void flextronClose(FlextronRunner* runner)
{
    std::unique_ptr<FlextronRunner> const owner(runner);
}

FlextronStatus flextronUseBudget(FlextronRunner* runner, char const* budget)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(budget != nullptr, "The budget");
            runner->runner.useBudget(budget);
        });
}

FlextronStatus flextronSelect(FlextronRunner* runner, char const* latencyTarget)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(latencyTarget != nullptr, "The latency target");
            runner->runner.selectFor(latencyTarget);
        });
}

FlextronStatus flextronRoute(FlextronRunner* runner, int64_t const* prompt, size_t promptSize)
{
    return guarded(
        [&]
        {
            checkPrompt(runner, prompt, promptSize);
            runner->runner.route({prompt, promptSize});
        });
}

FlextronStatus flextronSelection(FlextronRunner* runner, char const** json)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(json != nullptr, "The place for the text");
            runner->selection = runner->runner.selection().toJson().dump();
            *json = runner->selection.c_str();
        });
}

FlextronStatus flextronExplanation(FlextronRunner* runner, char const** text)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(text != nullptr, "The place for the text");
            runner->explanation = runner->runner.selection().text();
            *text = runner->explanation.c_str();
        });
}

FlextronStatus flextronCalibrate(FlextronRunner* runner, FlextronCalibration const* calibration, char const** file)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            auto const given = completed(calibration, flextronDefaultCalibration);
            runner->file = runner->runner.calibrate(calibrationOptions(given)).string();
            if (file != nullptr)
            {
                *file = runner->file.c_str();
            }
        });
}

FlextronStatus flextronNotes(FlextronRunner* runner, char const** text)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(text != nullptr, "The place for the text");
            runner->notes = flextron::join(runner->runner.notes(), "\n");
            *text = runner->notes.c_str();
        });
}

FlextronStatus flextronGenerate(FlextronRunner* runner, int64_t const* prompt, size_t promptSize,
    FlextronGeneration const* generation, FlextronTokenCallback callback, void* user, FlextronTimings* timings)
{
    return guarded(
        [&]
        {
            checkPrompt(runner, prompt, promptSize);
            auto const receive
                = [&](std::int64_t token) { return callback == nullptr || callback(token, user) == 0; };
            writeTimings(
                runner->runner.generate({prompt, promptSize}, generationOptions(generation), receive), timings);
        });
}

FlextronStatus flextronEncode(FlextronRunner* runner, char const* text, int64_t const** ids, size_t* count)
{
    return guarded(
        [&]
        {
            require(runner != nullptr, "The runner");
            require(text != nullptr, "The text");
            require(ids != nullptr && count != nullptr, "The place for the ids");
            runner->ids = runner->runner.tokenizer().encode(text);
            *ids = runner->ids.data();
            *count = runner->ids.size();
        });
}

FlextronStatus flextronDecode(FlextronRunner* runner, int64_t const* ids, size_t count, char const** text)
{
    return guarded(
        [&]
        {
            checkPrompt(runner, ids, count);
            require(text != nullptr, "The place for the text");
            runner->text = runner->runner.detokenizer().decode({ids, count});
            *text = runner->text.c_str();
        });
}

FlextronStatus flextronGenerateText(FlextronRunner* runner, int64_t const* prompt, size_t promptSize,
    FlextronGeneration const* generation, FlextronTextCallback callback, void* user, FlextronTimings* timings)
{
    return guarded(
        [&]
        {
            checkPrompt(runner, prompt, promptSize);
            flextron::TextStream stream(runner->runner.detokenizer(), {prompt, promptSize});
            auto const pass = [&](std::int64_t token, std::string const& piece)
            { return callback == nullptr || callback(token, piece.c_str(), user) == 0; };
            auto const taken = runner->runner.generate({prompt, promptSize}, generationOptions(generation),
                [&](std::int64_t token) { return pass(token, stream.push(token)); });
            auto const rest = stream.finish();
            if (!rest.empty() && std::string_view(taken.stoppedBy) != "caller")
            {
                static_cast<void>(pass(-1, rest));
            }
            writeTimings(taken, timings);
        });
}
