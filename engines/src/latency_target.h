//! What a budget must meet: `20ms` per token, `300ms@128` to the first token, `512MB`, or several with commas.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace flextron
{

//! Every limit that is set must hold.
struct LatencyTarget
{
    std::optional<double> msPerToken;
    std::optional<double> firstTokenMs; //!< from a prompt of `promptLength` tokens to the first token
    std::optional<std::int64_t> promptLength;
    std::optional<double> memoryBytes; //!< weights and KV cache

    //! Throws an Error of kind FLEXTRON_INPUT_ERROR if no limit is set, one is not positive, or they do not fit.
    void validate() const;

    [[nodiscard]] static LatencyTarget parse(std::string_view text);

    //! What the budget that comes closest is: the fastest or smallest if there is one limit, else the closest.
    [[nodiscard]] char const* nearest() const noexcept;

    //! As in "20 ms per token and 512 MB of memory".
    [[nodiscard]] std::string text() const;
};

//! As in "7.5 ms".
[[nodiscard]] std::string formatMilliseconds(double value);

//! As in "8.256 MB".
[[nodiscard]] std::string formatMegabytes(double bytes);

} // namespace flextron
