#include "engine_binding.h"

#include "error.h"
#include "tensors.h"

#include <array>

namespace flextron
{

namespace
{

constexpr std::array<char const*, 2> kCaches{"k", "v"};

std::string cacheName(char const* name, std::size_t layer)
{
    return std::string(name) + "." + std::to_string(layer);
}

void checkLimits(EngineRecord const& record, StepShape const& step)
{
    struct Limit
    {
        char const* what;
        std::int64_t asked;
        std::int64_t most;
    };
    for (auto const& [what, asked, most] : {Limit{"sequences", step.batch, record.maxBatch},
             Limit{"tokens per sequence", step.length, record.maxLength}, Limit{"rows of logits", step.rows, record.maxBatch}})
    {
        if (asked > most)
        {
            throw Error(FLEXTRON_TARGET_ERROR,
                "The engine takes up to " + std::to_string(most) + " " + what + ", not " + std::to_string(asked) + ".", {},
                record.rebuild() + " with other limits");
        }
    }
}

//! Index of every layer's width among the candidates.
std::map<std::string, std::vector<std::int64_t>> choicesOf(Candidates const& candidates, Budget const& budget)
{
    std::vector<std::int64_t> groups;
    std::vector<std::int64_t> neurons;
    for (auto const& width : budget.layers)
    {
        groups.push_back(indexOf(candidates.groups, width.groups));
        neurons.push_back(indexOf(candidates.neurons, width.neurons));
    }
    return {{"groups", groups}, {"neurons", neurons}};
}

} // namespace

BufferLayout BufferLayout::of(std::vector<std::pair<std::string, std::size_t>> const& sizes)
{
    constexpr std::size_t kAlignment = 256;
    BufferLayout layout;
    for (auto const& [name, size] : sizes)
    {
        layout.offsets[name] = layout.bytes;
        layout.bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    }
    return layout;
}

EngineBinding bind(Manifest const& manifest, EngineRecord const& record, Budget const& budget, StepShape const& step)
{
    checkLimits(record, step);
    auto const& architecture = manifest.architecture;
    auto const& plan = record.plan(budget.name, step.capacity);
    auto const& profiles = plan.profiles.at(budget.name);
    EngineBinding binding;
    binding.plan = plan.file;
    binding.profile = step.length == 1 ? profiles.decode : profiles.prefill;
    binding.logits = {step.rows, architecture.vocabSize};
    binding.shapes = {{"ids", {step.batch, step.length}}, {"positions", {step.batch, step.length}},
        {"write", {step.batch}}, {"rows", {step.rows}}};
    for (std::size_t layer = 0; layer < budget.layers.size(); ++layer)
    {
        for (auto const* name : kCaches)
        {
            binding.caches.push_back(cacheName(name, layer));
            binding.shapes[binding.caches.back()]
                = {step.batch, budget.layers[layer].groups, step.capacity, architecture.headDim};
        }
    }
    if (record.layout == "shared")
    {
        for (auto const& spec : tensorSpecs(architecture))
        {
            binding.weights.push_back(spec.name);
            binding.shapes[spec.name] = spec.active(architecture, budget);
        }
    }
    if (record.layout == "panels")
    {
        binding.choices = choicesOf(manifest.candidates, budget);
        for (auto const& [name, values] : binding.choices)
        {
            binding.shapes[name] = {static_cast<std::int64_t>(values.size())};
        }
    }
    return binding;
}

BufferLayout cacheLayout(
    Architecture const& architecture, std::int64_t elementSize, Budget const& budget, StepShape const& step)
{
    std::vector<std::pair<std::string, std::size_t>> sizes;
    for (std::size_t layer = 0; layer < budget.layers.size(); ++layer)
    {
        auto const elements = step.batch * budget.layers[layer].groups * step.capacity * architecture.headDim;
        for (auto const* name : kCaches)
        {
            sizes.emplace_back(cacheName(name, layer), static_cast<std::size_t>(elements * elementSize));
        }
    }
    return BufferLayout::of(sizes);
}

} // namespace flextron
