//! The tensors of a model in prefix layout: names, shapes, and how they narrow.
#pragma once

#include "architecture.h"
#include "widths.h"

#include <cstdint>
#include <string>
#include <vector>

namespace flextron
{

//! What the first dimension of a tensor counts.
enum class Rows
{
    kFixed,
    kQuery, //!< query heads x head_dim
    kKey, //!< KV groups x head_dim
    kNeurons,
};

struct TensorSpec
{
    std::string name;
    std::vector<std::int64_t> shape;
    std::int64_t layer{-1};
    Rows rows{Rows::kFixed};

    //! Shape of the prefix that a budget uses.
    [[nodiscard]] std::vector<std::int64_t> active(Architecture const& architecture, Budget const& budget) const;
};

//! All tensors of an architecture, in the order in which a forward pass reads them.
[[nodiscard]] std::vector<TensorSpec> tensorSpecs(Architecture const& architecture);

} // namespace flextron
