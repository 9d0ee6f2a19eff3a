#include "prompt_router.h"

#include "error.h"
#include "onnxruntime_session.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace flextron
{

namespace
{

//! The precision whose embedding it reads.
std::string embeddingDtype(Manifest const& manifest)
{
    return manifest.layouts.contains("fp32") ? "fp32" : manifest.layouts.begin()->first;
}

double distance(
    std::vector<LayerWidth> const& layers, std::vector<LayerWidth> const& wanted, Candidates const& candidates)
{
    auto const groups = static_cast<double>(candidates.groups.back());
    auto const neurons = static_cast<double>(candidates.neurons.back());
    double sum = 0;
    for (std::size_t i = 0; i < layers.size(); ++i)
    {
        sum += static_cast<double>(std::abs(layers[i].groups - wanted[i].groups)) / groups
            + static_cast<double>(std::abs(layers[i].neurons - wanted[i].neurons)) / neurons;
    }
    return sum;
}

Budget const& budgetOf(Manifest const& manifest, std::string const& name)
{
    return *std::find_if(
        manifest.budgets.begin(), manifest.budgets.end(), [&name](Budget const& b) { return b.name == name; });
}

//! Half precision as IEEE 754 has it.
float fromHalf(std::uint16_t bits) noexcept
{
    // NOLINTBEGIN(*-magic-numbers)
    auto const exponent = (bits >> 10U) & 0x1FU;
    auto const fraction = static_cast<double>(bits & 0x3FFU);
    auto const sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
    if (exponent == 0x1FU)
    {
        return fraction == 0 ? static_cast<float>(sign) * std::numeric_limits<float>::infinity()
                             : std::numeric_limits<float>::quiet_NaN();
    }
    auto const value = exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    // NOLINTEND(*-magic-numbers)
    return static_cast<float>(sign * value);
}

} // namespace

std::vector<float> encodeTarget(std::vector<double> const& targets, double target)
{
    std::vector<float> code(targets.size());
    // The last trained target that is not below it.
    std::size_t above = 0;
    while (above + 1 < targets.size() && targets[above + 1] >= target)
    {
        ++above;
    }
    if (targets[above] == target || above + 1 == targets.size())
    {
        code[above] = 1;
        return code;
    }
    auto const share = (target - targets[above + 1]) / (targets[above] - targets[above + 1]);
    code[above] = static_cast<float>(share);
    code[above + 1] = static_cast<float>(1 - share);
    return code;
}

std::optional<double> shareOf(Selection const& selection, LatencyTarget const& target, Manifest const& manifest)
{
    auto const size = [&manifest](std::string const& name)
    {
        std::int64_t sum = 0;
        for (auto const& width : budgetOf(manifest, name).layers)
        {
            sum += width.groups + width.neurons;
        }
        return sum;
    };
    auto const* widest = &selection.numbers;
    auto largest = size(selection.budget);
    for (auto const& rejected : selection.rejected)
    {
        if (auto const found = size(rejected.budget); found > largest)
        {
            largest = found;
            widest = &rejected.numbers;
        }
    }
    std::optional<double> share;
    auto const consider = [&share](std::optional<double> limit, std::optional<double> value)
    {
        if (limit && value)
        {
            share = std::min(share.value_or(*limit / *value), *limit / *value);
        }
    };
    if (selection.met && *widest)
    {
        consider(target.msPerToken, (*widest)->msPerToken);
        consider(target.firstTokenMs, (*widest)->firstTokenMs);
    }
    return share;
}

Selection nearest(Selection const& selection, LatencyTarget const& target, std::vector<LayerWidth> const& wanted,
    Manifest const& manifest)
{
    struct Fitting
    {
        std::string budget;
        std::optional<Numbers> numbers;
        double distance;
    };
    std::vector<Fitting> fitting;
    std::vector<Rejection> slow;
    auto const add = [&](std::string const& name, std::optional<Numbers> const& numbers)
    {
        fitting.push_back(
            {name, numbers, distance(budgetOf(manifest, name).layers, wanted, manifest.candidates)});
    };
    add(selection.budget, selection.numbers);
    for (auto const& rejected : selection.rejected)
    {
        if (rejected.why == "lower-quality")
        {
            add(rejected.budget, rejected.numbers);
        }
        else
        {
            slow.push_back(rejected);
        }
    }
    auto const& picked = *std::min_element(
        fitting.begin(), fitting.end(), [](Fitting const& a, Fitting const& b) { return a.distance < b.distance; });
    Selection found{picked.budget,
        picked.budget + " is nearest to the widths that the router chose for this prompt, of "
            + std::to_string(fitting.size()) + " that meet " + target.text() + ": " + picked.numbers->text() + ".",
        picked.numbers, {}, selection.met};
    for (auto const& other : fitting)
    {
        if (&other != &picked)
        {
            found.rejected.push_back({other.budget, other.numbers, "other-prompts",
                "it fits with " + other.numbers->text() + ", but is further from what the router chose"});
        }
    }
    found.rejected.insert(found.rejected.end(), slow.begin(), slow.end());
    return found;
}

PromptRouter::PromptRouter(std::shared_ptr<OnnxRuntimeLibrary> library, Bundle const& bundle)
    : mLibrary(std::move(library))
    , mBundle(bundle)
    , mWeights(bundle.weights(embeddingDtype(bundle.manifest())))
    , mSession(loadGraph(*mLibrary, bundle, kPromptRouterFile, 1, false))
{
    auto const embedding = mWeights.tensors().find("embedding");
    if (embedding == mWeights.tensors().end() || (embedding->second.dtype != "F32" && embedding->second.dtype != "F16"))
    {
        throw inputError("The prompt router reads the embedding, and this bundle has only a quantised one.",
            "export it with --dtype fp32 or fp16 besides, or choose a budget by name");
    }
}

std::vector<LayerWidth> PromptRouter::widths(std::span<std::int64_t const> prompt, double target)
{
    auto const& manifest = mBundle.manifest();
    auto const& targets = manifest.promptRouter->targets;
    auto mean = meanEmbedding(prompt);
    auto code = encodeTarget(targets, std::min(std::max(target, targets.back()), 1.0));
    try
    {
        auto const memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
        auto const row = [&memory](std::vector<float>& values)
        {
            std::array<std::int64_t, 2> const shape{1, static_cast<std::int64_t>(values.size())};
            return Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());
        };
        std::array<Ort::Value, 2> const inputs{row(mean), row(code)};
        std::array<char const*, 2> const inputNames{"prompt", "target"};
        std::array<char const*, 2> const outputNames{"groups", "neurons"};
        auto const outputs = mSession.Run(Ort::RunOptions{nullptr}, inputNames.data(), inputs.data(), inputs.size(),
            outputNames.data(), outputNames.size());
        std::vector<LayerWidth> chosen(static_cast<std::size_t>(manifest.architecture.numLayers));
        auto const pick = [&](Ort::Value const& output, std::vector<std::int64_t> const& candidates,
                              std::int64_t LayerWidth::* width)
        {
            if (output.GetTensorTypeAndShapeInfo().GetElementCount() != chosen.size())
            {
                throw bundleError(std::string(kPromptRouterFile) + " does not fit the manifest.", "export again");
            }
            auto const* const indices = output.GetTensorData<std::int64_t>();
            for (std::size_t i = 0; i < chosen.size(); ++i)
            {
                auto const last = static_cast<std::int64_t>(candidates.size()) - 1;
                chosen[i].*width = candidates[static_cast<std::size_t>(std::clamp<std::int64_t>(indices[i], 0, last))];
            }
        };
        pick(outputs[0], manifest.candidates.groups, &LayerWidth::groups);
        pick(outputs[1], manifest.candidates.neurons, &LayerWidth::neurons);
        return chosen;
    }
    catch (Ort::Exception const& error)
    {
        throw Error(FLEXTRON_TARGET_ERROR, "ONNX Runtime cannot run " + std::string(kPromptRouterFile) + ": " + error.what(),
            {}, "flextron-export verify " + mBundle.path().string());
    }
}

std::vector<float> PromptRouter::meanEmbedding(std::span<std::int64_t const> prompt) const
{
    auto const hidden = static_cast<std::size_t>(mBundle.manifest().architecture.hiddenSize);
    auto const bytes = mWeights["embedding"];
    bool const half = mWeights.tensors().at("embedding").dtype == "F16";
    std::vector<float> mean(hidden);
    for (auto const id : prompt)
    {
        for (std::size_t i = 0; i < hidden; ++i)
        {
            auto const at = static_cast<std::size_t>(id) * hidden + i;
            float value = 0;
            if (half)
            {
                std::uint16_t bits = 0;
                std::memcpy(&bits, bytes.data() + at * sizeof(bits), sizeof(bits));
                value = fromHalf(bits);
            }
            else
            {
                std::memcpy(&value, bytes.data() + at * sizeof(value), sizeof(value));
            }
            mean[i] += value;
        }
    }
    for (auto& value : mean)
    {
        value /= static_cast<float>(prompt.size());
    }
    return mean;
}

} // namespace flextron
