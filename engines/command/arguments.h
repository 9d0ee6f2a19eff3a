//! Command line of flextron-run.
#pragma once

#include "flextron/flextron.h"

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

//! The command line cannot be understood; the message says what is wrong with it.
class UsageError : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

struct Arguments
{
    std::string bundle;
    std::vector<std::int64_t> ids;
    std::optional<std::string> prompt; //!< text
    std::string promptFile; //!< - is the standard input
    std::string target;
    std::string library;
    std::string latencyTarget;
    std::string budget;
    std::string layout;
    std::string dtype;
    std::string table;
    std::string onnxruntime;
    std::string tokenizers;
    bool calibrate{}; //!< measure first
    std::vector<std::int64_t> contexts;
    std::vector<std::int64_t> promptLengths;
    FlextronOptions options{};
    FlextronCalibration calibration{};
    FlextronGeneration generation{};
    bool json{};
    bool withPrompt{}; //!< text or ids
    bool help{};

    //! The options with this object's strings filled in; valid as long as it lives.
    [[nodiscard]] FlextronOptions filledOptions() const;

    //! Likewise.
    [[nodiscard]] FlextronCalibration filledCalibration() const;
};

[[nodiscard]] Arguments parseArguments(std::vector<std::string> const& words);

//! What --help prints.
[[nodiscard]] char const* helpText() noexcept;
