//! The runner: opens a bundle, picks the budget that meets a latency target on this device, generates.
#pragma once

#include "backend.h"
#include "calibration.h"
#include "detokenizer.h"
#include "latency_store.h"
#include "latency_target.h"
#include "manifest.h"
#include "prompt_router.h"
#include "sampling.h"
#include "selection.h"
#include "session.h"
#include "timings.h"
#include "tokenizer.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace flextron
{

//! What to do for measurements that a target needs.
enum class CalibrationMode
{
    kAuto, //!< measure if this device has no table yet
    kNever,
    kAlways,
};

//! See FlextronOptions; empty strings stand for the default.
struct RunnerOptions
{
    std::string target;
    std::string latencyTarget;
    std::string budget;
    std::string layout;
    std::string dtype;
    std::string latencyTable;
    std::string library;
    std::string onnxruntime;
    std::string tokenizers;
    std::int32_t threads{};
    std::int64_t chunk{};
    std::optional<std::int64_t> context;
    bool bestEffort{};
    bool lowMemory{};
    bool skipHashes{};
    CalibrationMode calibration{};
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

    //! What the next generation runs, unless its prompt is routed elsewhere.
    [[nodiscard]] Selection const& selection() const noexcept
    {
        return mRouted ? *mRouted : mSelection;
    }

    //! If the bundle has a prompt router and there is a target: selects the budget that the router asks for, for this
    //! prompt, among those that meet the target. `generate` does so itself.
    void route(std::span<std::int64_t const> prompt);

    void useBudget(std::string const& name);

    //! On failure the old selection stays.
    void selectFor(std::string const& latencyTarget);

    //! Measures every budget and keeps the table, in the bundle or the user's cache; later selections use it.
    //! \return where the table is; empty if it could be kept in memory only.
    std::filesystem::path calibrate(CalibrationOptions const& options);

    //! What its user should know although nothing failed.
    [[nodiscard]] std::vector<std::string> const& notes() const noexcept
    {
        return mNotes;
    }

    //! Throws an Error if the bundle has no tokenizer, or one that this library does not know.
    [[nodiscard]] Tokenizer const& tokenizer();
    [[nodiscard]] Detokenizer const& detokenizer();

    //! \param receive gets every token as soon as it is decided; returns false to stop.
    Timings generate(std::span<std::int64_t const> prompt, GenerationOptions const& options,
        std::function<bool(std::int64_t)> const& receive);

private:
    [[nodiscard]] Selection widest() const;
    [[nodiscard]] Json device() const;
    [[nodiscard]] LatencyTable const& measurements(LatencyTarget const& target);
    [[nodiscard]] Session& session();
    [[nodiscard]] std::filesystem::path tokenizerFile() const;
    [[nodiscard]] BackendSettings backendSettings() const;
    [[nodiscard]] Setup chooseSetup() const;
    void checkPrompt(std::span<std::int64_t const> prompt);
    [[nodiscard]] std::int64_t maxTokens();

    RunnerOptions mOptions;
    Bundle mBundle;
    std::set<std::int64_t> mEndOfText;
    std::unique_ptr<Backend> mBackend;
    Setup mSetup;
    Selection mSelection;
    std::optional<LatencyTarget> mTarget; //!< what the selection was made for
    std::optional<Selection> mRouted; //!< the selection for one prompt
    std::unique_ptr<PromptRouter> mPromptRouter; //!< made when it is first needed
    std::unique_ptr<Session> mSession; //!< loaded when it is first needed
    std::optional<LatencyTable> mTable;
    std::vector<std::string> mNotes;
    std::unique_ptr<Tokenizer> mTokenizer; //!< made when text is first needed
    std::unique_ptr<Detokenizer> mDetokenizer;
};

} // namespace flextron
