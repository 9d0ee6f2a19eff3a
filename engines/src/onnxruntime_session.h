//! ONNX Runtime on the host's processor: every layout, the KV cache updated in place.
#pragma once

#include "manifest.h"
#include "onnxruntime_library.h"
#include "safetensors.h"
#include "session.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flextron
{

struct OnnxRuntimeSettings
{
    std::string layout;
    std::string dtype;
    std::int32_t threads{1};
    bool lowMemory{}; //!< leave constant weights in the mapped file instead of rearranging them for speed
};

//! A graph of a bundle, by its path in it. Throws an Error of kind FLEXTRON_TARGET_ERROR if ONNX Runtime refuses it.
[[nodiscard]] Ort::Session loadGraph(
    OnnxRuntimeLibrary& library, Bundle const& bundle, std::string const& graph, std::int32_t threads, bool lowMemory);

//! Layout `per-budget` loads a budget's graph when it is first used.
class OnnxRuntimeSession final : public Session
{
public:
    //! The bundle outlives the session. Throws an Error if the graph was not exported, or ONNX Runtime refuses it.
    OnnxRuntimeSession(
        std::shared_ptr<OnnxRuntimeLibrary> library, Bundle const& bundle, OnnxRuntimeSettings settings);

    [[nodiscard]] std::int64_t maxCapacity() const noexcept override
    {
        return mBundle.manifest().architecture.maxPositions;
    }

    [[nodiscard]] std::int64_t memory() const override;

    [[nodiscard]] std::unique_ptr<Cache> newCache(Budget const& budget, std::int64_t capacity) override;

private:
    friend class OnnxRuntimeCache;

    //! Inputs that depend on the budget alone: candidate indices (`panels`), prefixes of the weights (`shared`).
    struct BudgetInputs
    {
        std::vector<std::int64_t> indices; //!< memory of the values
        std::vector<std::pair<std::string, Ort::Value>> values;
    };

    [[nodiscard]] Ort::Session& session(Budget const& budget);
    [[nodiscard]] BudgetInputs const& inputs(Budget const& budget);
    [[nodiscard]] BudgetInputs widthIndices(Budget const& budget) const;
    [[nodiscard]] BudgetInputs weightPrefixes(Budget const& budget) const;

    std::shared_ptr<OnnxRuntimeLibrary> mLibrary;
    Bundle const& mBundle;
    OnnxRuntimeSettings mSettings;
    ONNXTensorElementDataType mElement;
    std::size_t mElementSize;
    Ort::MemoryInfo mHost{nullptr};
    std::int64_t mMemory{}; //!< by which the process grew as it loaded graphs
    std::optional<SafetensorsFile> mWeights;
    std::map<std::string, Ort::Session> mSessions; //!< by graph file
    std::map<std::string, BudgetInputs> mInputs; //!< by budget
};

} // namespace flextron
