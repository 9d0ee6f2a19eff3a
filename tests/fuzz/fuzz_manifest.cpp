//! Any bytes as a manifest: refused with one of our errors, or readable in every part.
#include "error.h"
#include "manifest.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size)
{
    using namespace flextron;
    try
    {
        auto const manifest = Manifest::fromJson(parseObject({reinterpret_cast<char const*>(data), size}));
        for (Budget const& budget : manifest.budgets)
        {
            if (budget.parameters(manifest.architecture) <= 0)
            {
                std::abort(); // an accepted budget has weights
            }
        }
    }
    catch (JsonError const&)
    {
    }
    catch (Error const&)
    {
    }
    return 0;
}
