//! A library that is loaded at run time.
#pragma once

#include <string>
#include <vector>

namespace flextron
{

//! It stays loaded until the process ends: its threads and static objects must outlive everything made with it.
class SharedLibrary
{
public:
    //! Loads the first of the names that can be loaded and has a symbol.
    //! \param what the library's name for people; \param fix what to do if none can be loaded.
    //! Throws an Error of kind FLEXTRON_MISSING_DEPENDENCY that names what was tried.
    SharedLibrary(std::string const& what, std::vector<std::string> const& names, char const* symbol,
        std::string const& fix);

    //! Address of a function; null if there is none.
    template <typename Function>
    [[nodiscard]] Function* find(char const* symbol) const
    {
        return reinterpret_cast<Function*>(address(symbol));
    }

private:
    [[nodiscard]] void* address(char const* symbol) const;

    void* mHandle{};
};

//! The names to try: the given path, else what an environment variable names, else the usual ones.
[[nodiscard]] std::vector<std::string> libraryNames(
    std::string const& path, char const* variable, std::vector<std::string> const& usual);

} // namespace flextron
