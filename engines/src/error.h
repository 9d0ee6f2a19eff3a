//! Errors of the library: what happened, the likely cause, the next command. They become codes at the C interface.
#pragma once

#include "flextron/flextron.h"

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace flextron
{

class Error : public std::runtime_error
{
public:
    //! \param cause the likely cause, or empty.
    //! \param fix the next command or action, or empty.
    Error(FlextronStatus status, std::string const& what, std::string_view cause = {}, std::string_view fix = {});

    [[nodiscard]] FlextronStatus status() const noexcept
    {
        return mStatus;
    }

private:
    FlextronStatus mStatus;
};

//! Something that the caller passed cannot be used.
[[nodiscard]] Error inputError(std::string const& what, std::string_view fix = {}, std::string_view cause = {});

//! A bundle is missing, damaged, altered, from a newer version, or lacks what was asked of it.
[[nodiscard]] Error bundleError(std::string const& what, std::string_view fix = {}, std::string_view cause = {});

//! Throws one error that names every problem; returns if there is none.
void throwIfAny(FlextronStatus status, std::string const& subject, std::vector<std::string> const& found,
    std::string_view fix = {});

[[nodiscard]] std::string join(std::vector<std::string> const& parts, std::string_view separator);

} // namespace flextron
