#include "arguments.h"

#include <array>
#include <charconv>
#include <functional>
#include <map>
#include <string_view>
#include <utility>

namespace
{

template <typename Number>
Number number(std::string_view text, std::string_view name)
{
    Number value{};
    auto const result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || result.ec != std::errc{} || result.ptr != text.data() + text.size())
    {
        throw UsageError(std::string(name) + ": '" + std::string(text) + "' is not a number it can take.");
    }
    return value;
}

std::vector<std::int64_t> integers(std::string_view text, std::string_view name)
{
    std::vector<std::int64_t> ids;
    while (true)
    {
        auto const comma = text.find(',');
        ids.push_back(number<std::int64_t>(text.substr(0, comma), name));
        if (comma == std::string_view::npos)
        {
            return ids;
        }
        text.remove_prefix(comma + 1);
    }
}

using Setter = std::function<void(std::string const& value)>;

template <typename Number>
Setter into(Number& target, std::string_view name)
{
    return [&target, name](std::string const& value) { target = number<Number>(value, name); };
}

Setter into(std::vector<std::int64_t>& target, std::string_view name)
{
    return [&target, name](std::string const& value) { target = integers(value, name); };
}

Setter into(std::string& target)
{
    return [&target](std::string const& value) { target = value; };
}

std::int32_t calibrationMode(std::string const& name)
{
    constexpr std::array kModes{std::pair("auto", FLEXTRON_CALIBRATE_AUTO), std::pair("never", FLEXTRON_CALIBRATE_NEVER),
        std::pair("always", FLEXTRON_CALIBRATE_ALWAYS)};
    for (auto const& [mode, value] : kModes)
    {
        if (name == mode)
        {
            return value;
        }
    }
    throw UsageError("--calibration: '" + name + "' is none of auto, never, always.");
}

char const* orNull(std::string const& text) noexcept
{
    return text.empty() ? nullptr : text.c_str();
}

} // namespace

FlextronOptions Arguments::filledOptions() const
{
    auto filled = options;
    filled.latencyTarget = orNull(latencyTarget);
    filled.budget = orNull(budget);
    filled.layout = orNull(layout);
    filled.dtype = orNull(dtype);
    filled.latencyTable = orNull(table);
    filled.onnxruntime = orNull(onnxruntime);
    filled.tokenizers = orNull(tokenizers);
    filled.target = orNull(target);
    filled.library = orNull(library);
    return filled;
}

FlextronCalibration Arguments::filledCalibration() const
{
    auto filled = calibration;
    filled.contexts = contexts.empty() ? nullptr : contexts.data();
    filled.contextCount = contexts.size();
    filled.promptLengths = promptLengths.empty() ? nullptr : promptLengths.data();
    filled.promptLengthCount = promptLengths.size();
    return filled;
}

Arguments parseArguments(std::vector<std::string> const& words)
{
    Arguments found;
    flextronDefaultOptions(&found.options);
    flextronDefaultCalibration(&found.calibration);
    flextronDefaultGeneration(&found.generation);
    std::map<std::string, Setter> const valued{
        {"--ids", into(found.ids, "--ids")},
        {"--prompt", [&found](std::string const& value) { found.prompt = value; }},
        {"--prompt-file", into(found.promptFile)},
        {"--latency-target", into(found.latencyTarget)},
        {"--target", into(found.target)},
        {"--library", into(found.library)},
        {"--budget", into(found.budget)},
        {"--layout", into(found.layout)},
        {"--dtype", into(found.dtype)},
        {"--table", into(found.table)},
        {"--calibration",
            [&found](std::string const& value) { found.options.calibration = calibrationMode(value); }},
        {"--contexts", into(found.contexts, "--contexts")},
        {"--prompt-lengths", into(found.promptLengths, "--prompt-lengths")},
        {"--repeats", into(found.calibration.repeats, "--repeats")},
        {"--onnxruntime", into(found.onnxruntime)},
        {"--tokenizers", into(found.tokenizers)},
        {"--threads", into(found.options.threads, "--threads")},
        {"--chunk", into(found.options.chunk, "--chunk")},
        {"--max-new-tokens", into(found.generation.maxNewTokens, "--max-new-tokens")},
        {"--temperature", into(found.generation.temperature, "--temperature")},
        {"--top-k", into(found.generation.topK, "--top-k")},
        {"--top-p", into(found.generation.topP, "--top-p")},
        {"--min-p", into(found.generation.minP, "--min-p")},
        {"--repetition-penalty", into(found.generation.repetitionPenalty, "--repetition-penalty")},
        {"--seed", into(found.generation.seed, "--seed")},
    };
    std::map<std::string, std::function<void()>> const flags{
        {"--calibrate", [&found] { found.calibrate = true; }},
        {"--json", [&found] { found.json = true; }},
        {"--help", [&found] { found.help = true; }},
        {"--best-effort", [&found] { found.options.bestEffort = 1; }},
        {"--low-memory", [&found] { found.options.lowMemory = 1; }},
        {"--no-verify-hashes", [&found] { found.options.skipHashes = 1; }},
        {"--ignore-eos", [&found] { found.generation.ignoreEos = 1; }},
    };
    for (std::size_t i = 0; i < words.size(); ++i)
    {
        // Both `--name value` and `--name=value`.
        auto const equals = words[i].starts_with("--") ? words[i].find('=') : std::string::npos;
        auto const name = words[i].substr(0, equals);
        if (auto const setter = valued.find(name); setter != valued.end())
        {
            if (equals == std::string::npos && i + 1 == words.size())
            {
                throw UsageError(name + " needs a value.");
            }
            setter->second(equals == std::string::npos ? words[++i] : words[i].substr(equals + 1));
        }
        else if (auto const flag = flags.find(words[i]); flag != flags.end())
        {
            flag->second();
        }
        else if (words[i].starts_with("-") || !found.bundle.empty())
        {
            throw UsageError("'" + words[i] + "' is not understood.");
        }
        else
        {
            found.bundle = words[i];
        }
    }
    auto const prompts = (found.ids.empty() ? 0 : 1) + (found.prompt ? 1 : 0) + (found.promptFile.empty() ? 0 : 1);
    found.withPrompt = prompts == 1;
    if (!found.help && found.bundle.empty())
    {
        throw UsageError("The bundle is missing.");
    }
    if (!found.help && prompts != 1 && !(prompts == 0 && found.calibrate))
    {
        throw UsageError("Pass one of --prompt, --prompt-file and --ids, or --calibrate.");
    }
    return found;
}

char const* helpText() noexcept
{
    return R"(Usage: flextron-run BUNDLE --prompt TEXT [OPTIONS]
       flextron-run BUNDLE --ids 1,2,3 [OPTIONS]
       flextron-run BUNDLE --calibrate [OPTIONS]

Generates text with the best budget of BUNDLE that meets a latency target on this device. Text, or token ids after a
prompt of ids, stream to standard output; which budget was picked and why, and the timings, go to standard error.

  --calibrate            measure every budget and keep the table; then generate, if there is a prompt
  --contexts LIST        with --calibrate: lengths at which decoding is measured (64,256,1024)
  --prompt-lengths LIST  with --calibrate: lengths at which the first token is measured (16,128,512)
  --repeats N            with --calibrate: decode steps per budget and length (96)
  --prompt TEXT          text to continue
  --prompt-file FILE     file with the text to continue; - for the standard input
  --ids LIST             token ids of the prompt, with commas
  --latency-target TEXT  20ms or 50tok/s (per token), 300ms@128 (first token of a 128-token prompt), 512MB (memory), or several
                         with commas; this device's measurements are made if there are none
  --table FILE           select by these measurements instead
  --calibration MODE     measure the budgets once per device (auto), never, or always (auto)
  --best-effort          if no budget meets the target, run the one that comes closest
  --budget NAME          run this budget, whatever it costs
  --max-new-tokens N     stop after that many (64)
  --temperature X        0 takes the likeliest token each time (0)
  --top-k K              choose among the k likeliest tokens; 0 for all (0)
  --top-p P              choose among the likeliest tokens of this total probability (1)
  --min-p P              choose among tokens at least P times as likely as the likeliest (0)
  --repetition-penalty X above 1, tokens that have occurred become less likely (1)
  --seed N               the same seed, prompt and settings give the same tokens (0)
  --ignore-eos           go on after the model's end-of-text token
  --target NAME          onnxruntime-cpu, tensorrt or tensorrt-rtx (onnxruntime-cpu)
  --layout NAME          panels, shared or per-budget (panels; shared on TensorRT)
  --dtype NAME           fp32, fp16, int8 or int4 (fp32; fp16 on TensorRT)
  --library PATH         the TensorRT library ($FLEXTRON_TENSORRT or $FLEXTRON_TENSORRT_RTX, then the system's)
  --threads N            threads (one per core that may be used)
  --chunk N              tokens per prefill call (256)
  --low-memory           leave the weights in the mapped file; slower
  --no-verify-hashes     check sizes of the bundle's files only; starts faster
  --onnxruntime PATH     the ONNX Runtime library ($FLEXTRON_ONNXRUNTIME, then the system's)
  --tokenizers PATH      the library onnxruntime-extensions, which text needs ($FLEXTRON_TOKENIZERS, then the system's)
  --json                 print the result as JSON

Exit codes are those of flextron-export (docs/command-line.md).
)";
}
