//! The runner: opens a bundle, picks the budget that meets a latency target on this device, generates.
#pragma once

#include "latency_store.h"
#include "latency_target.h"
#include "manifest.h"
#include "onnxruntime_library.h"
#include "sampling.h"
#include "selection.h"
#include "session.h"
#include "timings.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>

namespace flextron
{

//! See FlextronOptions; empty strings stand for the default.
struct RunnerOptions
{
    std::string latencyTarget;
    std::string budget;
    std::string layout;
    std::string dtype;
    std::string latencyTable;
    std::string onnxruntime;
    std::int32_t threads{};
    std::int64_t chunk{};
    std::optional<std::int64_t> context;
    bool bestEffort{};
    bool lowMemory{};
    bool skipHashes{};
};

struct GenerationOptions
{
    std::int64_t maxNewTokens{};
    Sampling sampling;
    std::uint64_t seed{};
    bool ignoreEos{};
};

class Runner
{
public:
    //! Throws an Error: the bundle, the library or the options cannot be used, or no budget meets the target.
    Runner(std::string const& bundle, RunnerOptions options);
    ~Runner() = default;

    // The session refers to the bundle.
    Runner(Runner const&) = delete;
    Runner& operator=(Runner const&) = delete;
    Runner(Runner&&) = delete;
    Runner& operator=(Runner&&) = delete;

    [[nodiscard]] Selection const& selection() const noexcept
    {
        return mSelection;
    }

    void useBudget(std::string const& name);

    //! On failure the old selection stays.
    void selectFor(std::string const& latencyTarget);

    //! \param receive gets every token as soon as it is decided; returns false to stop.
    Timings generate(std::span<std::int64_t const> prompt, GenerationOptions const& options,
        std::function<bool(std::int64_t)> const& receive);

private:
    [[nodiscard]] Selection widest() const;
    [[nodiscard]] Setup chooseSetup() const;
    void checkPrompt(std::span<std::int64_t const> prompt) const;

    RunnerOptions mOptions;
    Bundle mBundle;
    Setup mSetup;
    std::set<std::int64_t> mEndOfText;
    std::shared_ptr<OnnxRuntimeLibrary> mLibrary;
    Selection mSelection;
    std::unique_ptr<Session> mSession;
};

} // namespace flextron
