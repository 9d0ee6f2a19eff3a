#include "error.h"

namespace flextron
{

namespace
{

std::string sentence(std::string const& what, std::string_view cause, std::string_view fix)
{
    std::string text = what;
    if (!cause.empty())
    {
        text.append("\n  likely cause: ").append(cause);
    }
    if (!fix.empty())
    {
        text.append("\n  next: ").append(fix);
    }
    return text;
}

} // namespace

Error::Error(FlextronStatus status, std::string const& what, std::string_view cause, std::string_view fix)
    : std::runtime_error(sentence(what, cause, fix))
    , mStatus(status)
{
}

Error inputError(std::string const& what, std::string_view fix, std::string_view cause)
{
    return Error(FLEXTRON_INPUT_ERROR, what, cause, fix);
}

Error bundleError(std::string const& what, std::string_view fix, std::string_view cause)
{
    return Error(FLEXTRON_BUNDLE_ERROR, what, cause, fix);
}

void throwIfAny(FlextronStatus status, std::string const& subject, std::vector<std::string> const& found,
    std::string_view fix)
{
    if (!found.empty())
    {
        throw Error(status, subject + ": " + join(found, "; "), {}, fix);
    }
}

std::string join(std::vector<std::string> const& parts, std::string_view separator)
{
    std::string text;
    for (auto const& part : parts)
    {
        text.append(text.empty() ? std::string_view{} : separator).append(part);
    }
    return text;
}

} // namespace flextron
