//! Per-prompt routing: which of the budgets that meet a target a prompt router asks for (docs/routers.md).
#pragma once

#include "latency_target.h"
#include "manifest.h"
#include "onnxruntime_library.h"
#include "safetensors.h"
#include "selection.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace flextron
{

//! What a router reads instead of a share of the full latency, one number per trained target: a trained one is one-hot,
//! one between two trained ones blends theirs. \param targets descending. \param target between the first and the last.
[[nodiscard]] std::vector<float> encodeTarget(std::vector<double> const& targets, double target);

//! Of the budgets that meet a selection's target, the one nearest to the wanted widths; the first among equals.
[[nodiscard]] Selection nearest(Selection const& selection, LatencyTarget const& target,
    std::vector<LayerWidth> const& wanted, Manifest const& manifest);

//! The share of the widest budget's measured time that a target asks for; none if it sets no time, the selection meets
//! none, or the widest budget was not measured.
[[nodiscard]] std::optional<double> shareOf(
    Selection const& selection, LatencyTarget const& target, Manifest const& manifest);

//! It runs on ONNX Runtime on the CPU, wherever the model runs.
class PromptRouter
{
public:
    //! The bundle has a prompt router and outlives this. Throws an Error if ONNX Runtime refuses the graph.
    PromptRouter(std::shared_ptr<OnnxRuntimeLibrary> library, Bundle const& bundle);

    //! What it chooses for a prompt at a share of the full latency; outside the trained ones, at the nearest.
    [[nodiscard]] std::vector<LayerWidth> widths(std::span<std::int64_t const> prompt, double target);

private:
    [[nodiscard]] std::vector<float> meanEmbedding(std::span<std::int64_t const> prompt) const;

    std::shared_ptr<OnnxRuntimeLibrary> mLibrary;
    Bundle const& mBundle;
    SafetensorsFile mWeights;
    Ort::Session mSession{nullptr};
};

} // namespace flextron
