//! The binding plan of an engine: which engine and profile serve a call, and the shape and place of every tensor. Pure
//! functions; tests/targets/binding_vectors.json holds in every language.
#pragma once

#include "engine_record.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace flextron
{

//! Sizes of one call.
struct StepShape
{
    std::int64_t batch{1};
    std::int64_t length{1}; //!< tokens per sequence
    std::int64_t capacity{}; //!< cache slots
    std::int64_t rows{1}; //!< of logits
};

//! Places in one device buffer.
struct BufferLayout
{
    std::map<std::string, std::size_t> offsets;
    std::size_t bytes{};

    //! Tensors one behind the other, each aligned to 256 bytes.
    [[nodiscard]] static BufferLayout of(std::vector<std::pair<std::string, std::size_t>> const& sizes);
};

//! Everything one call sets on an execution context. Every cache input `k.0` has an output `k.0.out` at its address.
struct EngineBinding
{
    std::string plan; //!< file name of the engine
    std::int64_t profile{};
    std::map<std::string, std::vector<std::int64_t>> shapes; //!< of every input
    std::vector<std::int64_t> logits; //!< shape, float32
    std::vector<std::string> weights; //!< inputs, bound at their places in the weights' buffer
    std::map<std::string, std::vector<std::int64_t>> choices; //!< what the inputs that choose the budget hold
    std::vector<std::string> caches; //!< inputs
};

//! Throws an Error of kind FLEXTRON_TARGET_ERROR if the engine was built for less than the call asks.
[[nodiscard]] EngineBinding bind(
    Manifest const& manifest, EngineRecord const& record, Budget const& budget, StepShape const& step);

//! Places of the KV caches of one batch in one buffer.
[[nodiscard]] BufferLayout cacheLayout(
    Architecture const& architecture, std::int64_t elementSize, Budget const& budget, StepShape const& step);

} // namespace flextron
