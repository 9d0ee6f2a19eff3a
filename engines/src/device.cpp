#include "device.h"

#include "sha256.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <regex>
#include <sched.h>
#include <sys/utsname.h>
#include <thread>
#include <unistd.h>

namespace flextron
{

namespace
{

//! Trimmed of what device files end with; empty if there is no such file.
std::optional<std::string> firstLine(char const* path)
{
    std::ifstream file(path);
    std::string const text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    constexpr std::string_view kEnds("\0\n ", 3);
    auto const start = text.find_first_not_of(kEnds);
    if (start == std::string::npos)
    {
        return std::nullopt;
    }
    auto const end = text.find_last_not_of(kEnds) + 1;
    return text.substr(start, std::min(text.find('\n', start), end) - start);
}

std::string machine()
{
    struct utsname names = {};
    return ::uname(&names) == 0 ? names.machine : "unknown";
}

//! Name of the processor; on boards with a device tree, the board's name, which says more.
std::string cpuModel()
{
    if (auto const board = firstLine("/proc/device-tree/model"))
    {
        return *board;
    }
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
    {
        if (line.starts_with("model name"))
        {
            auto const start = line.find_first_not_of(" \t", line.find(':') + 1);
            auto const end = line.find_last_not_of(" \t");
            return start == std::string::npos ? machine() : line.substr(start, end - start + 1);
        }
    }
    return machine();
}

//! Cores that a container may use in time, where that is limited.
std::optional<double> cpuQuota()
{
    auto const line = firstLine("/sys/fs/cgroup/cpu.max").value_or("max");
    auto const space = std::min(line.find(' '), line.size());
    double quota = 0;
    double period = 0;
    auto const* const end = line.data() + line.size();
    auto const* const middle = line.data() + space;
    if (std::from_chars(line.data(), middle, quota).ec != std::errc{} || middle == end
        || std::from_chars(middle + 1, end, period).ec != std::errc{} || period <= 0)
    {
        return std::nullopt;
    }
    return std::round(quota / period * 100) / 100;
}

//! Rounded: the exact number changes with every kernel.
std::int64_t memoryGib()
{
    constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
    return static_cast<std::int64_t>(std::nearbyint(
        static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE)) / kGib));
}

std::string slug(std::string const& name)
{
    constexpr std::size_t kLongest = 40;
    static std::regex const kNoise(
        R"(\((R|TM|C)\)|\b(CPU|Processor)\b|@.*)", std::regex::ECMAScript | std::regex::icase);
    std::string text;
    for (char const c : std::regex_replace(name, kNoise, " "))
    {
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
        {
            text += c;
        }
        else if (c >= 'A' && c <= 'Z')
        {
            text += static_cast<char>(c - 'A' + 'a');
        }
        else if (!text.empty() && text.back() != '-')
        {
            text += '-';
        }
    }
    while (text.ends_with('-'))
    {
        text.pop_back();
    }
    text.resize(std::min(text.size(), kLongest));
    while (text.ends_with('-'))
    {
        text.pop_back();
    }
    return text.empty() ? "unknown" : text;
}

} // namespace

std::int32_t usableCores()
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof(set), &set) == 0)
    {
        return CPU_COUNT(&set);
    }
    return std::max(1, static_cast<std::int32_t>(std::thread::hardware_concurrency()));
}

Json fingerprint(Json const& libraries, Json const& accelerator, std::int32_t threads, bool lowMemory)
{
    Json device{{"cpu", cpuModel()}, {"architecture", machine()}, {"cores", usableCores()},
        {"memory_gib", memoryGib()}, {"threads", threads}, {"libraries", libraries}};
    device.update(accelerator);
    if (auto const quota = cpuQuota())
    {
        device["cpu_quota"] = *quota;
    }
    if (auto const mode = firstLine("/var/lib/nvpmodel/status"))
    {
        device["power_mode"] = *mode;
    }
    if (lowMemory)
    {
        device["low_memory"] = true;
    }
    constexpr std::size_t kDigits = 8;
    auto const digest = sha256(pythonJson(device)).substr(0, kDigits);
    device["id"] = slug(device[device.contains("gpu") ? "gpu" : "cpu"].get<std::string>()) + "-" + digest;
    return device;
}

std::string pythonJson(Json const& value)
{
    std::string text;
    auto separate = [&text, first = true]() mutable
    {
        text += first ? "" : ", ";
        first = false;
    };
    if (value.is_object())
    {
        for (auto const& [key, item] : value.items()) // sorted, as nlohmann's objects are
        {
            separate();
            text += Json(key).dump(-1, ' ', true) + ": " + pythonJson(item);
        }
        return "{" + text + "}";
    }
    if (value.is_array())
    {
        for (auto const& item : value)
        {
            separate();
            text += pythonJson(item);
        }
        return "[" + text + "]";
    }
    return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

} // namespace flextron
