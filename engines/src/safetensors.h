//! A mapped safetensors file: 8 bytes header length, a JSON header, then the tensors without gaps.
#pragma once

#include "mapped_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace flextron
{

//! Where a tensor lies; the offset counts from the start of the file.
struct TensorInfo
{
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::size_t offset{};
    std::size_t length{};
};

//! Reads and checks the header of a whole file; JsonError says what is wrong with it.
[[nodiscard]] std::map<std::string, TensorInfo> readSafetensorsHeader(std::span<std::byte const> file);

class SafetensorsFile
{
public:
    //! Throws an Error of kind FLEXTRON_BUNDLE_ERROR.
    explicit SafetensorsFile(std::filesystem::path const& path);

    [[nodiscard]] std::map<std::string, TensorInfo> const& tensors() const noexcept
    {
        return mTensors;
    }

    //! The mapped bytes of a tensor; std::out_of_range if there is none of that name.
    [[nodiscard]] std::span<std::byte const> operator[](std::string const& name) const
    {
        auto const& info = mTensors.at(name);
        return mFile.bytes().subspan(info.offset, info.length);
    }

private:
    explicit SafetensorsFile(MappedFile file);

    MappedFile mFile;
    std::map<std::string, TensorInfo> mTensors;
};

} // namespace flextron
