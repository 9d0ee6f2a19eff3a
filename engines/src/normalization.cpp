#include "normalization.h"

#include "error.h"

#ifdef FLEXTRON_UTF8PROC
#include <cstdlib>
#include <memory>
#include <new>
#include <utf8proc.h>
#else
#include <algorithm>
#endif

namespace flextron
{

std::string normalized(std::string const& text)
{
#ifdef FLEXTRON_UTF8PROC
    struct Free
    {
        void operator()(utf8proc_uint8_t* data) const noexcept
        {
            std::free(data); // NOLINT(*-no-malloc): utf8proc allocated it
        }
    };
    std::unique_ptr<utf8proc_uint8_t, Free> const result(
        utf8proc_NFC(reinterpret_cast<utf8proc_uint8_t const*>(text.c_str())));
    if (!result)
    {
        throw std::bad_alloc(); // the text is UTF-8
    }
    return reinterpret_cast<char const*>(result.get());
#else
    auto const ascii = [](char byte) { return static_cast<unsigned char>(byte) < 0x80; }; // NOLINT(*-magic-numbers)
    if (!std::all_of(text.begin(), text.end(), ascii))
    {
        throw inputError("The bundle's tokenizer normalizes texts, which this library was built without.",
            "build it with utf8proc (Debian: libutf8proc-dev), or pass token ids");
    }
    return text;
#endif
}

} // namespace flextron
