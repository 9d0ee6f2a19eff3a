#include "shared_library.h"

#include "error.h"

#include <cstdlib>
#include <dlfcn.h>

namespace flextron
{

SharedLibrary::SharedLibrary(
    std::string const& what, std::vector<std::string> const& names, char const* symbol, std::string const& fix)
{
    std::vector<std::string> tried;
    for (auto const& name : names)
    {
        if (void* const library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL))
        {
            if (::dlsym(library, symbol) != nullptr)
            {
                mHandle = library;
                return;
            }
            tried.push_back(name + " is no " + what);
            continue;
        }
        char const* const reason = ::dlerror();
        tried.emplace_back(reason != nullptr ? reason : name.c_str());
    }
    throw Error(FLEXTRON_MISSING_DEPENDENCY, what + " cannot be loaded: " + join(tried, "; ") + ".", {}, fix);
}

void* SharedLibrary::address(char const* symbol) const
{
    return ::dlsym(mHandle, symbol);
}

std::vector<std::string> libraryNames(
    std::string const& path, char const* variable, std::vector<std::string> const& usual)
{
    if (!path.empty())
    {
        return {path};
    }
    char const* const given = std::getenv(variable); // NOLINT(concurrency-mt-unsafe): nothing here sets variables
    return given != nullptr && *given != '\0' ? std::vector<std::string>{given} : usual;
}

} // namespace flextron
