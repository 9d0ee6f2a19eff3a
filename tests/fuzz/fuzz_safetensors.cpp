//! Any bytes as a safetensors file: refused with our error, or every tensor lies inside the file.
#include "json.h"
#include "safetensors.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size)
{
    using namespace flextron;
    try
    {
        for (auto const& [name, info] : readSafetensorsHeader(std::as_bytes(std::span(data, size))))
        {
            if (info.offset > size || info.length > size - info.offset)
            {
                std::abort();
            }
        }
    }
    catch (JsonError const&)
    {
    }
    return 0;
}
