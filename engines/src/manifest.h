//! The bundle and its manifest (docs/bundle-format.md).
#pragma once

#include "architecture.h"
#include "safetensors.h"
#include "widths.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace flextron
{

//! Size in bytes and SHA-256 of a file in the bundle.
struct FileRecord
{
    std::int64_t bytes{};
    std::string sha256;
};

//! A router that chooses once per prompt (docs/routers.md), as far as the runtime needs to know it.
struct PromptRouterRecord
{
    std::vector<double> targets; //!< shares of the full latency that it was trained for, descending from 1 or below
};

constexpr char const* kPromptRouterFile = "router.onnx";

//! What `manifest.json` says, checked against itself.
struct Manifest
{
    Architecture architecture;
    Candidates candidates;
    std::vector<Budget> budgets;
    std::map<std::string, std::vector<std::string>> layouts; //!< by dtype
    std::map<std::string, FileRecord> files;
    std::map<std::string, std::int64_t> groupSizes; //!< weights that share a scale, by quantised dtype
    std::optional<PromptRouterRecord> promptRouter;

    //! JsonError or Error says everything that is wrong with it.
    [[nodiscard]] static Manifest fromJson(Json const& value);
};

//! An opened bundle.
class Bundle
{
public:
    //! Opens and checks a bundle; with `hashes` the SHA-256 of every file, not only sizes.
    //! Throws an Error of kind FLEXTRON_BUNDLE_ERROR that names every difference.
    [[nodiscard]] static Bundle open(std::filesystem::path const& path, bool hashes);

    [[nodiscard]] std::filesystem::path const& path() const noexcept
    {
        return mPath;
    }

    [[nodiscard]] Manifest const& manifest() const noexcept
    {
        return mManifest;
    }

    //! The budget of that name; the error names the ones that were exported.
    [[nodiscard]] Budget const& budget(std::string const& name) const;

    //! Path of a graph relative to the bundle; the error says what was exported if it was not.
    [[nodiscard]] std::string graph(std::string const& layout, std::string const& dtype, Budget const& budget) const;

    //! The mapped weights, their tensors checked against the architecture.
    [[nodiscard]] SafetensorsFile weights(std::string const& dtype) const;

private:
    Bundle(std::filesystem::path path, Manifest manifest);

    void checkFiles(bool hashes) const;

    std::filesystem::path mPath;
    Manifest mManifest;
};

//! Name of the weights file of a precision.
[[nodiscard]] std::string weightsFile(std::string const& dtype);

//! Bytes of one number of a precision.
[[nodiscard]] std::int64_t elementSize(std::string const& dtype) noexcept;

//! Path of a graph inside a bundle.
[[nodiscard]] std::string graphFile(std::string const& layout, std::string const& dtype, std::string const& budget);

} // namespace flextron
