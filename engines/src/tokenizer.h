//! Text to tokens, from a bundle's tokenizer files, by the library onnxruntime-extensions.
#pragma once

#include "json.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace flextron
{

class Tokenizer
{
public:
    //! \param bundle directory with tokenizer.json and tokenizer_config.json.
    //! \param library onnxruntime-extensions; empty for $FLEXTRON_TOKENIZERS, then what the system's loader finds.
    //! Throws an Error: FLEXTRON_MISSING_DEPENDENCY; FLEXTRON_INPUT_ERROR for a kind of tokenizer for which the library
    //! is not known to give the tokens of the original; FLEXTRON_BUNDLE_ERROR if a file is damaged.
    Tokenizer(std::filesystem::path const& bundle, std::string const& library);
    ~Tokenizer();

    Tokenizer(Tokenizer const&) = delete;
    Tokenizer& operator=(Tokenizer const&) = delete;
    Tokenizer(Tokenizer&&) = delete;
    Tokenizer& operator=(Tokenizer&&) = delete;

    //! Token ids, with a beginning-of-text token if the tokenizer adds one. The text is UTF-8.
    [[nodiscard]] std::vector<std::int64_t> encode(std::string const& text) const;

private:
    struct Library;

    //! The ids around a text, from the part of tokenizer.json that adds them.
    void readTemplate(Json const& tokenizer);

    std::unique_ptr<Library> mLibrary;
    void* mTokenizer{};
    bool mNormalizes{}; //!< the text is to be in Unicode's normalization form C
    std::vector<std::int64_t> mBefore; //!< ids that begin every text
    std::vector<std::int64_t> mAfter; //!< ids that end every text
};

} // namespace flextron
