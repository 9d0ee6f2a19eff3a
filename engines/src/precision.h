//! Precisions of a bundle (docs/precisions.md).
#pragma once

#include "widths.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace flextron
{

struct Manifest;

[[nodiscard]] bool isPrecision(std::string_view dtype) noexcept;

//! Whether its matrices are small integers with a scale per group.
[[nodiscard]] bool isQuantized(std::string_view dtype) noexcept;

//! Whether it is made for TensorRT alone.
[[nodiscard]] bool isForTensorRT(std::string_view dtype) noexcept;

//! Everything that is wrong with the precisions of a manifest and their group sizes, in words.
[[nodiscard]] std::vector<std::string> precisionFaults(Manifest const& manifest);

//! Bytes that a budget reads of the weights file.
[[nodiscard]] std::int64_t weightBytes(Manifest const& manifest, std::string const& dtype, Budget const& budget);

} // namespace flextron
