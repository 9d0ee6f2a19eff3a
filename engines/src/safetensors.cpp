#include "safetensors.h"

#include "error.h"
#include "json.h"

#include <algorithm>
#include <utility>

namespace flextron
{

namespace
{

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kLargestHeader = 100'000'000;

std::uint64_t elementSize(std::string const& dtype)
{
    static std::map<std::string, std::uint64_t> const kSizes{{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2},
        {"F8_E4M3", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U64", 8}, {"U32", 4}, {"U16", 2}, {"U8", 1}, {"BOOL", 1}};
    auto const found = kSizes.find(dtype);
    if (found == kSizes.end())
    {
        throw JsonError("the dtype '" + dtype + "' is unknown");
    }
    return found->second;
}

std::uint64_t headerLength(std::span<std::byte const> file)
{
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < kLengthBytes && i < file.size(); ++i)
    {
        length |= std::to_integer<std::uint64_t>(file[i]) << (8 * i);
    }
    if (file.size() < kLengthBytes + 2 || length < 2 || length > file.size() - kLengthBytes || length > kLargestHeader)
    {
        throw JsonError("the header does not fit in the file");
    }
    return length;
}

TensorInfo readTensor(std::string const& name, Json const& entry, std::uint64_t start)
{
    TensorInfo info;
    info.dtype = readString(member(entry, "dtype"), "a dtype");
    info.shape = readIntegers(member(entry, "shape"), "a shape");
    auto const offsets = readIntegers(member(entry, "data_offsets"), "data_offsets");
    std::uint64_t size = elementSize(info.dtype);
    bool good = offsets.size() == 2 && offsets[0] >= 0 && offsets[1] >= offsets[0];
    for (auto const dimension : info.shape)
    {
        good = good && dimension >= 0 && !__builtin_mul_overflow(size, static_cast<std::uint64_t>(dimension), &size);
    }
    if (!good || static_cast<std::uint64_t>(offsets[1] - offsets[0]) != size)
    {
        throw JsonError("tensor '" + name + "' has a size that does not fit its shape");
    }
    // Both are at most 2^63, so the sum fits.
    info.offset = start + static_cast<std::uint64_t>(offsets[0]);
    info.length = size;
    return info;
}

//! Tensors follow each other without gaps or overlaps, and the last one ends with the file.
void checkPlaces(std::map<std::string, TensorInfo> const& tensors, std::size_t start, std::size_t end)
{
    std::vector<std::pair<std::string const*, TensorInfo const*>> order;
    order.reserve(tensors.size());
    for (auto const& [name, info] : tensors)
    {
        order.emplace_back(&name, &info);
    }
    std::stable_sort(order.begin(), order.end(),
        [](auto const& a, auto const& b)
        { return std::pair(a.second->offset, a.second->length) < std::pair(b.second->offset, b.second->length); });
    auto expected = start;
    for (auto const& [name, info] : order)
    {
        if (info->offset != expected)
        {
            throw JsonError("tensor '" + *name + "' does not begin where the one before it ends");
        }
        if (info->length > end - expected)
        {
            throw JsonError("tensor '" + *name + "' ends beyond the file");
        }
        expected += info->length;
    }
    if (expected != end)
    {
        throw JsonError("it has " + std::to_string(end) + " bytes, its header describes " + std::to_string(expected));
    }
}

} // namespace

std::map<std::string, TensorInfo> readSafetensorsHeader(std::span<std::byte const> file)
{
    auto const length = headerLength(file);
    auto const text = file.subspan(kLengthBytes, length);
    auto const header = parseObject({reinterpret_cast<char const*>(text.data()), text.size()});
    std::map<std::string, TensorInfo> tensors;
    for (auto const& [name, entry] : header.items())
    {
        if (name != "__metadata__")
        {
            tensors.emplace(name, readTensor(name, entry, kLengthBytes + length));
        }
    }
    checkPlaces(tensors, kLengthBytes + length, file.size());
    return tensors;
}

SafetensorsFile::SafetensorsFile(std::filesystem::path const& path)
try : SafetensorsFile(MappedFile(path))
{
}
catch (std::exception const& error)
{
    throw bundleError(path.string() + " cannot be read as safetensors: " + error.what() + ".", "copy the bundle again",
        "the file is truncated, altered or of another format");
}

SafetensorsFile::SafetensorsFile(MappedFile file)
    : mFile(std::move(file))
    , mTensors(readSafetensorsHeader(mFile.bytes()))
{
}

} // namespace flextron
