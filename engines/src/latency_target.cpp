#include "latency_target.h"

#include "error.h"
#include "number_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

namespace flextron
{

namespace
{

constexpr std::string_view kHint = "write 20ms or 50tok/s (per token), 300ms@128 (first token of a 128-token prompt), "
                                   "512MB (memory), or several with commas";

constexpr double kMillisecondsPerSecond = 1e3;

struct Unit
{
    std::string_view name;
    double factor; //!< milliseconds or bytes
    bool memory;
};

constexpr std::array kUnits{Unit{"us", 1e-3, false}, Unit{"ms", 1, false}, Unit{"s", 1e3, false}, Unit{"b", 1, true},
    Unit{"kb", 1e3, true}, Unit{"mb", 1e6, true}, Unit{"gb", 1e9, true}, Unit{"kib", 1024, true},
    Unit{"mib", 1048576, true}, Unit{"gib", 1073741824, true}};

//! Takes a text apart from the left; every `take` skips what it found, and says whether it found anything.
class Scanner
{
public:
    explicit Scanner(std::string_view text)
        : mRest(text)
    {
    }

    void skipSpaces()
    {
        mRest.remove_prefix(std::min(mRest.find_first_not_of(" \t\r\n"), mRest.size()));
    }

    bool take(std::string_view word)
    {
        if (!mRest.starts_with(word))
        {
            return false;
        }
        mRest.remove_prefix(word.size());
        return true;
    }

    [[nodiscard]] std::string_view takeLetters()
    {
        return takeWhile([](char c) { return c >= 'a' && c <= 'z'; });
    }

    [[nodiscard]] std::string_view takeDigits()
    {
        return takeWhile([](char c) { return c >= '0' && c <= '9'; });
    }

    //! Digits with an optional point and exponent; infinity if it is too large for a number.
    [[nodiscard]] std::optional<double> takeNumber()
    {
        auto const start = mRest;
        auto digits = takeDigits();
        if (take("."))
        {
            digits = takeDigits();
        }
        if (digits.empty())
        {
            return std::nullopt;
        }
        takeExponent();
        double value = 0;
        auto const end = start.data() + (start.size() - mRest.size());
        auto const result = std::from_chars(start.data(), end, value);
        if (result.ec == std::errc::result_out_of_range)
        {
            return std::numeric_limits<double>::infinity();
        }
        return result.ec == std::errc{} && result.ptr == end ? std::optional(value) : std::nullopt;
    }

    [[nodiscard]] bool atEnd() const
    {
        return mRest.empty();
    }

private:
    template <typename Predicate>
    std::string_view takeWhile(Predicate wanted)
    {
        auto const end = std::find_if_not(mRest.begin(), mRest.end(), wanted);
        auto const found = mRest.substr(0, static_cast<std::size_t>(end - mRest.begin()));
        mRest.remove_prefix(found.size());
        return found;
    }

    void takeExponent()
    {
        auto const before = mRest;
        if (take("e"))
        {
            static_cast<void>(take("-") || take("+"));
            if (takeDigits().empty())
            {
                mRest = before;
            }
        }
    }

    std::string_view mRest;
};

struct Limit
{
    double amount{}; //!< milliseconds or bytes
    bool memory{};
    std::optional<std::int64_t> promptLength;
};

[[noreturn]] void refuse(std::string_view text, std::string_view cause = {})
{
    throw inputError("'" + std::string(text) + "' is not a target.", kHint, cause);
}

Limit parseLimit(std::string_view part, std::string_view whole)
{
    Scanner scanner(part);
    scanner.skipSpaces();
    auto const number = scanner.takeNumber();
    if (!number)
    {
        refuse(whole);
    }
    scanner.skipSpaces();
    auto const name = scanner.takeLetters();
    auto const* const unit
        = std::find_if(kUnits.begin(), kUnits.end(), [name](Unit const& known) { return known.name == name; });
    scanner.skipSpaces();
    Limit limit;
    bool const perToken = scanner.take("/");
    if (perToken && (name == "tok" || name == "token" || name == "tokens"))
    {
        scanner.skipSpaces();
        bool const perSecond = scanner.take("s");
        scanner.skipSpaces();
        if (!perSecond || !scanner.atEnd())
        {
            refuse(whole);
        }
        limit.amount = *number > 0 ? kMillisecondsPerSecond / *number : 0;
        return limit;
    }
    if (perToken)
    {
        scanner.skipSpaces();
        if (!scanner.take("token") && !scanner.take("tok"))
        {
            refuse(whole);
        }
    }
    else
    {
        bool const named = scanner.take("ttft");
        scanner.skipSpaces();
        bool const at = scanner.take("@");
        if (named && !at)
        {
            refuse(whole);
        }
        if (at)
        {
            scanner.skipSpaces();
            auto const digits = scanner.takeDigits();
            constexpr std::size_t kMostDigits = 9;
            std::int64_t length = 0;
            if (digits.size() > kMostDigits
                || std::from_chars(digits.data(), digits.data() + digits.size(), length).ec != std::errc{})
            {
                refuse(whole);
            }
            limit.promptLength = length;
        }
    }
    scanner.skipSpaces();
    if (!scanner.atEnd())
    {
        refuse(whole);
    }
    if (unit == kUnits.end() || (unit->memory && (perToken || limit.promptLength)))
    {
        refuse(whole, "a missing or unknown unit");
    }
    limit.amount = *number * unit->factor;
    limit.memory = unit->memory;
    return limit;
}

} // namespace

void LatencyTarget::validate() const
{
    if (!msPerToken && !firstTokenMs && !memoryBytes)
    {
        throw inputError("The target sets no limit.", kHint);
    }
    auto const bad = [](std::optional<double> const& limit) { return limit && !(*limit > 0 && std::isfinite(*limit)); };
    if (bad(msPerToken) || bad(firstTokenMs) || bad(memoryBytes) || (promptLength && *promptLength < 1))
    {
        throw inputError("A target must be a positive number.", kHint);
    }
    if (firstTokenMs.has_value() != promptLength.has_value())
    {
        throw inputError("A time to the first token needs a prompt length, and a prompt length such a time.", kHint);
    }
}

LatencyTarget LatencyTarget::parse(std::string_view text)
{
    std::string lower(text);
    std::transform(lower.begin(), lower.end(), lower.begin(),
        [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    LatencyTarget target;
    for (std::size_t start = 0; start <= lower.size();)
    {
        auto const end = std::min(lower.find(',', start), lower.size());
        auto const limit = parseLimit(std::string_view(lower).substr(start, end - start), text);
        auto const twice = limit.memory ? target.memoryBytes.has_value()
            : limit.promptLength        ? target.firstTokenMs.has_value()
                                        : target.msPerToken.has_value();
        if (twice)
        {
            throw inputError("'" + std::string(text) + "' sets the same limit twice.", kHint);
        }
        if (limit.memory)
        {
            target.memoryBytes = limit.amount;
        }
        else if (limit.promptLength)
        {
            target.firstTokenMs = limit.amount;
            target.promptLength = limit.promptLength;
        }
        else
        {
            target.msPerToken = limit.amount;
        }
        start = end + 1;
    }
    target.validate();
    return target;
}

char const* LatencyTarget::nearest() const noexcept
{
    if (int{msPerToken.has_value()} + int{firstTokenMs.has_value()} + int{memoryBytes.has_value()} > 1)
    {
        return "closest";
    }
    return memoryBytes ? "smallest" : "fastest";
}

std::string LatencyTarget::text() const
{
    std::vector<std::string> parts;
    if (msPerToken)
    {
        parts.push_back(formatMilliseconds(*msPerToken) + " per token");
    }
    if (firstTokenMs)
    {
        parts.push_back(formatMilliseconds(*firstTokenMs) + " to the first token of a "
            + std::to_string(*promptLength) + "-token prompt");
    }
    if (memoryBytes)
    {
        parts.push_back(formatMegabytes(*memoryBytes) + " of memory");
    }
    return join(parts, " and ");
}

std::string formatMilliseconds(double value)
{
    constexpr double kSecond = 1000;
    return (value < kSecond ? fourDigits(value) : fixed(value, 0)) + " ms";
}

std::string formatMegabytes(double bytes)
{
    constexpr double kMegabyte = 1e6;
    return fourDigits(bytes / kMegabyte) + " MB";
}

} // namespace flextron
