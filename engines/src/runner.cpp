#include "runner.h"

#include "device.h"
#include "end_of_text.h"
#include "error.h"
#include "precision.h"
#include "sequence.h"
#include "stopwatch.h"

#include <algorithm>
#include <system_error>

namespace flextron
{

namespace
{

RunnerOptions checked(RunnerOptions options)
{
    if (!options.latencyTarget.empty() && !options.budget.empty())
    {
        throw inputError("A latency target and a budget were given.", "pass one of them");
    }
    std::vector<std::string> found;
    // More are a mistake, and some thousands end the process: thread pools start all they are asked for.
    constexpr std::int32_t kMostThreads = 1024;
    if (options.threads < 0 || options.threads > kMostThreads)
    {
        found.push_back(std::to_string(options.threads) + " threads cannot run anything (0 to "
            + std::to_string(kMostThreads) + " can)");
    }
    if (options.chunk < 1)
    {
        found.push_back("chunk " + std::to_string(options.chunk) + " is not at least 1");
    }
    if (options.context && *options.context < 1)
    {
        found.push_back("context " + std::to_string(*options.context) + " is not at least 1");
    }
    throwIfAny(FLEXTRON_INPUT_ERROR, "these options cannot be used", found, "leave them out, or change them");
    options.target = options.target.empty() ? kOnnxRuntimeCpu : options.target;
    options.threads = options.threads == 0 ? usableCores() : options.threads;
    return options;
}

} // namespace

Runner::Runner(std::string const& bundle, RunnerOptions options)
    : mOptions(checked(std::move(options)))
    , mBundle(Bundle::open(bundle, !mOptions.skipHashes))
    , mEndOfText(endOfText(mBundle.path()))
    , mBackend(makeBackend(mOptions.target, backendSettings()))
    , mSetup(chooseSetup())
{
    if (!mOptions.latencyTarget.empty())
    {
        selectFor(mOptions.latencyTarget);
    }
    else if (!mOptions.budget.empty())
    {
        useBudget(mOptions.budget);
    }
    else
    {
        mSelection = widest();
    }
    static_cast<void>(session());
}

void Runner::useBudget(std::string const& name)
{
    mSelection = {mBundle.budget(name).name, name + " was asked for by name."};
    mTarget.reset();
    mRouted.reset();
}

void Runner::selectFor(std::string const& latencyTarget)
{
    auto const target = LatencyTarget::parse(latencyTarget);
    mSelection
        = select(mBundle.manifest().budgets, measurements(target), target, mOptions.context, mOptions.bestEffort);
    mTarget = target;
    mRouted.reset();
}

void Runner::route(std::span<std::int64_t const> prompt)
{
    checkPrompt(prompt);
    mRouted.reset();
    if (!mBundle.manifest().promptRouter || !mTarget)
    {
        return;
    }
    auto const& manifest = mBundle.manifest();
    // As a share of what the widest budget was measured to take.
    if (auto const share = shareOf(mSelection, *mTarget, manifest))
    {
        if (!mPromptRouter)
        {
            mPromptRouter
                = std::make_unique<PromptRouter>(std::make_shared<OnnxRuntimeLibrary>(mOptions.onnxruntime), mBundle);
        }
        mRouted = nearest(mSelection, *mTarget, mPromptRouter->widths(prompt, *share), manifest);
    }
}

std::filesystem::path Runner::calibrate(CalibrationOptions const& options)
{
    mTable = flextron::calibrate(session(), mBundle, mSetup, device(), options);
    try
    {
        auto const file = saveTable(mBundle, *mTable);
        if (file.parent_path() != mBundle.path() / "latency")
        {
            mNotes.push_back(
                mBundle.path().string() + " cannot be written; the latency table is kept as " + file.string() + ".");
        }
        return file;
    }
    catch (std::system_error const& error)
    {
        mNotes.push_back(std::string("The latency table is kept in memory only: ") + error.what() + ".");
        return {};
    }
}

Json Runner::device() const
{
    return fingerprint(mBackend->libraries(), mBackend->device(), mOptions.threads, mOptions.lowMemory);
}

LatencyTable const& Runner::measurements(LatencyTarget const& target)
{
    if (mTable)
    {
        return *mTable;
    }
    if (!mOptions.latencyTable.empty())
    {
        mTable = readTable(mOptions.latencyTable, mBundle, mSetup);
    }
    else if (mOptions.calibration != CalibrationMode::kAlways)
    {
        mTable = findTable(mBundle, mSetup, device()["id"].get<std::string>());
    }
    if (mTable)
    {
        if (auto const caution = mTable->caution())
        {
            mNotes.push_back(*caution + " Measure again: flextron-run " + mBundle.path().string() + " --calibrate");
        }
        return *mTable;
    }
    auto const what = mBundle.path().string() + " has no measurements of " + mSetup.text() + " on this device.";
    if (mOptions.calibration == CalibrationMode::kNever)
    {
        throw inputError(what, "flextron-run " + mBundle.path().string() + " --calibrate");
    }
    CalibrationOptions options;
    if (mOptions.context.value_or(0) > options.contexts.back())
    {
        options.contexts.push_back(*mOptions.context);
    }
    if (target.promptLength.value_or(0) > options.promptLengths.back())
    {
        options.promptLengths.push_back(*target.promptLength);
    }
    static_cast<void>(calibrate(options));
    return *mTable;
}

Session& Runner::session()
{
    if (!mSession)
    {
        mSession = mBackend->open(mBundle, mSetup);
    }
    return *mSession;
}

Tokenizer const& Runner::tokenizer()
{
    if (!mTokenizer)
    {
        mTokenizer = std::make_unique<Tokenizer>(tokenizerFile().parent_path(), mOptions.tokenizers);
    }
    return *mTokenizer;
}

Detokenizer const& Runner::detokenizer()
{
    if (!mDetokenizer)
    {
        mDetokenizer = std::make_unique<Detokenizer>(tokenizerFile());
    }
    return *mDetokenizer;
}

std::filesystem::path Runner::tokenizerFile() const
{
    auto file = mBundle.path() / "tokenizer.json";
    if (!std::filesystem::is_regular_file(file))
    {
        throw inputError(mBundle.path().string() + " has no tokenizer.json, so text cannot be turned into tokens.",
            "pass token ids, or add tokenizer.json to the checkpoint and export again",
            "the model that was exported came without a fast tokenizer");
    }
    return file;
}

Timings Runner::generate(std::span<std::int64_t const> prompt, GenerationOptions const& options,
    std::function<bool(std::int64_t)> const& receive)
{
    options.sampling.validate();
    if (options.maxNewTokens < 1)
    {
        throw inputError(
            std::to_string(options.maxNewTokens) + " new tokens are nothing to generate.", "ask for 1 or more");
    }
    route(prompt);
    Timings timings;
    timings.promptTokens = static_cast<std::int64_t>(prompt.size());
    Random random(options.seed);
    std::set<std::int64_t> seen;
    if (options.sampling.repetitionPenalty != 1)
    {
        seen.insert(prompt.begin(), prompt.end());
    }
    auto const choose = [&](std::span<float const> logits)
    {
        auto const token = options.sampling.choose(logits, random, seen);
        if (options.sampling.repetitionPenalty != 1)
        {
            seen.insert(token);
        }
        return token;
    };
    Stopwatch const untilFirst;
    Sequence sequence(session(), mBundle.budget(selection().budget), maxTokens(), mOptions.chunk);
    auto token = choose(sequence.append(prompt));
    timings.firstTokenMs = untilFirst.milliseconds();
    while (true)
    {
        ++timings.tokens;
        if (!options.ignoreEos && mEndOfText.contains(token))
        {
            timings.stoppedBy = "eos"; // which is no part of the text
            return timings;
        }
        bool const wanted = receive(token);
        timings.stoppedBy = !wanted            ? "caller"
            : timings.tokens >= options.maxNewTokens ? "length"
            : sequence.full()                        ? "context"
                                                     : "";
        if (*timings.stoppedBy != '\0')
        {
            return timings;
        }
        Stopwatch const step;
        token = choose(sequence.append({&token, 1}));
        timings.tokenMs.push_back(step.milliseconds());
    }
}

Selection Runner::widest() const
{
    auto const& manifest = mBundle.manifest();
    auto const narrower = [&manifest](Budget const& a, Budget const& b)
    { return a.parameters(manifest.architecture) < b.parameters(manifest.architecture); };
    auto const found = std::max_element(manifest.budgets.begin(), manifest.budgets.end(), narrower);
    return {found->name, found->name + " is the widest budget; there was no latency target."};
}

BackendSettings Runner::backendSettings() const
{
    auto const& library = mOptions.library.empty() && mOptions.target == kOnnxRuntimeCpu ? mOptions.onnxruntime : mOptions.library;
    return {library, mOptions.threads, mOptions.lowMemory};
}

Setup Runner::chooseSetup() const
{
    auto const& layouts = mBundle.manifest().layouts;
    auto setup = mBackend->preferred();
    auto const wanted = setup.layout;
    setup.dtype = !mOptions.dtype.empty() ? mOptions.dtype
        : layouts.contains(setup.dtype)   ? setup.dtype
                                          : layouts.begin()->first;
    auto const found = layouts.find(setup.dtype);
    bool const other = found != layouts.end() && !found->second.empty()
        && std::find(found->second.begin(), found->second.end(), wanted) == found->second.end();
    setup.layout = !mOptions.layout.empty() ? mOptions.layout : other ? found->second.front() : wanted;
    if (setup.layout == "routed")
    {
        throw inputError("This library does not run layout routed.", "use another layout, or run it from Python",
            "the bundle's router chooses per token, which only the Python runtime asks of the graph");
    }
    if (isForTensorRT(setup.dtype))
    {
        throw inputError("This library does not run " + setup.dtype + ".",
            "export with --dtype int8, int4 or fp32",
            "its graphs are made for TensorRT");
    }
    // Says what there is, if that is not exported.
    static_cast<void>(mBundle.graph(setup.layout, setup.dtype, mBundle.manifest().budgets.front()));
    return setup;
}

std::int64_t Runner::maxTokens()
{
    return std::min(mBundle.manifest().architecture.maxPositions, session().maxCapacity());
}

void Runner::checkPrompt(std::span<std::int64_t const> prompt)
{
    auto const& architecture = mBundle.manifest().architecture;
    if (prompt.empty())
    {
        throw inputError("The prompt is empty.", "pass at least one token id");
    }
    auto const outside = std::find_if(prompt.begin(), prompt.end(),
        [&architecture](std::int64_t id) { return id < 0 || id >= architecture.vocabSize; });
    if (outside != prompt.end())
    {
        throw inputError("Token id " + std::to_string(*outside) + " is outside the vocabulary of "
                + std::to_string(architecture.vocabSize) + ".",
            "use the tokenizer of the model that was exported", "a tokenizer of another model");
    }
    if (auto const most = maxTokens(); prompt.size() > static_cast<std::size_t>(most))
    {
        throw inputError("The prompt has " + std::to_string(prompt.size()) + " tokens; the cache holds at most "
                + std::to_string(most) + ".",
            "shorten the prompt, and leave room for the answer");
    }
}

} // namespace flextron
