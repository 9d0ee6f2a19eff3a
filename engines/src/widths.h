//! Widths, budgets and candidates. A narrower network is a prefix of the wider.
#pragma once

#include "architecture.h"
#include "json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace flextron
{

//! Width of one layer: KV groups (a KV head with all its query heads) and FFN neurons.
struct LayerWidth
{
    std::int64_t groups{};
    std::int64_t neurons{};

    bool operator==(LayerWidth const&) const = default;
};

//! A sub-network: a name, one width per layer and, if it was measured, its validation loss in nats per token.
struct Budget
{
    std::string name;
    std::vector<LayerWidth> layers;
    std::optional<double> validationLoss;

    //! Active parameters outside the embedding and the LM head.
    [[nodiscard]] std::int64_t parameters(Architecture const& architecture) const noexcept;

    [[nodiscard]] static Budget fromJson(Json const& value);
};

//! The widths that a layer may take, ascending; the last is the full width.
struct Candidates
{
    std::vector<std::int64_t> groups;
    std::vector<std::int64_t> neurons;

    [[nodiscard]] static Candidates fromJson(Json const& value);
};

//! Index of a width among the candidates; -1 if it is none of them.
[[nodiscard]] std::int64_t indexOf(std::vector<std::int64_t> const& candidates, std::int64_t width) noexcept;

//! Everything that is wrong with candidates and budgets of a model, in words.
[[nodiscard]] std::vector<std::string> widthFaults(
    Architecture const& architecture, Candidates const& candidates, std::vector<Budget> const& budgets);

} // namespace flextron
