#include "memory.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <system_error>

namespace flextron
{

namespace
{

constexpr std::string_view kAnonymous = "Anonymous:";

//! The number after the name of a counter such as "Anonymous:   12 kB".
std::int64_t counter(std::string_view line)
{
    line.remove_prefix(kAnonymous.size());
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    std::int64_t value = 0;
    std::from_chars(line.data(), line.data() + line.size(), value);
    return value;
}

struct Mapping
{
    std::uintptr_t start{};
    std::uintptr_t stop{};
};

//! The first line of a mapping, "start-stop flags offset device inode path", if its file is the wanted one.
std::optional<Mapping> mappingOf(std::string_view line, std::string const& wanted)
{
    constexpr int kHexadecimal = 16;
    auto const path = line.find(" /");
    if (path == std::string_view::npos || line.substr(path + 1) != wanted)
    {
        return std::nullopt;
    }
    Mapping found;
    auto const* const end = line.data() + line.size();
    auto const start = std::from_chars(line.data(), end, found.start, kHexadecimal);
    if (start.ec != std::errc{} || start.ptr == end || *start.ptr != '-'
        || std::from_chars(start.ptr + 1, end, found.stop, kHexadecimal).ec != std::errc{})
    {
        return std::nullopt;
    }
    return found;
}

} // namespace

std::int64_t privateMemory()
{
    constexpr std::int64_t kUnit = 1024;
    std::ifstream file("/proc/self/smaps_rollup");
    for (std::string line; std::getline(file, line);)
    {
        if (line.starts_with(kAnonymous))
        {
            return counter(line) * kUnit;
        }
    }
    return 0;
}

void dropMappedPages(std::filesystem::path const& file)
{
    std::error_code ignored;
    auto const wanted = std::filesystem::canonical(file, ignored).string();
    std::ifstream maps("/proc/self/smaps");
    std::optional<Mapping> mapping;
    for (std::string line; std::getline(maps, line);)
    {
        auto const space = line.find(' ');
        if (space != std::string::npos && line[space - (space > 0 ? 1 : 0)] != ':')
        {
            mapping = mappingOf(line, wanted); // its counters follow
        }
        else if (mapping && line.starts_with(kAnonymous) && counter(line) == 0)
        {
            // Pages that were written to would be lost; there are none.
            auto* const address = reinterpret_cast<void*>(mapping->start); // NOLINT(performance-no-int-to-ptr)
            ::madvise(address, mapping->stop - mapping->start, MADV_DONTNEED);
        }
    }
}

} // namespace flextron
