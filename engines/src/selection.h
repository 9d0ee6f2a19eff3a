//! Which budget to run: the best one whose measured latency meets the target, and why. Pure and deterministic; the
//! rules are in docs/latency-table.md, the cases of tests/runtime/selection_vectors.json hold in every language.
#pragma once

#include "json.h"
#include "latency_table.h"
#include "latency_target.h"
#include "widths.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace flextron
{

//! What the table says about a budget at the lengths asked for; empty where the target asks for no such limit.
struct Numbers
{
    std::optional<double> msPerToken;
    std::optional<double> firstTokenMs;
    std::optional<double> memoryBytes;

    [[nodiscard]] std::string text() const;
};

//! A budget that was not picked.
struct Rejection
{
    std::string budget;
    std::optional<Numbers> numbers; //!< empty if it was not measured
    std::string why; //!< one of `over-target`, `lower-quality` and `not-measured`
    std::string reason; //!< the same as a sentence
};

//! The budget that was picked.
struct Selection
{
    std::string budget;
    std::string reason;
    std::optional<Numbers> numbers{};
    std::vector<Rejection> rejected{}; //!< all others, best quality first
    bool met{true}; //!< false only for best effort

    [[nodiscard]] Json toJson() const;

    //! The reason, and a line for every budget that was rejected.
    [[nodiscard]] std::string text() const;
};

//! Picks the budget of highest quality whose measured p95 meets every limit of the target. Quality is the validation
//! loss where all budgets have one, else the number of parameters.
//! \param context tokens in the cache at which the target must hold; by default the longest that was measured.
//! \param bestEffort if nothing fits, take the budget that comes closest.
//! Throws an Error: FLEXTRON_NO_BUDGET_FITS, which names the budget that comes closest, or FLEXTRON_INPUT_ERROR.
[[nodiscard]] Selection select(std::vector<Budget> const& budgets, LatencyTable const& table,
    LatencyTarget const& target, std::optional<std::int64_t> context, bool bestEffort);

} // namespace flextron
