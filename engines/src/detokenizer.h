//! Tokens to text, from a bundle's tokenizer.json.
#pragma once

#include "json.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flextron
{

//! The two ways in which today's models spell: bytes under other names (GPT-2, Llama 3, Qwen), or pieces of text with
//! U+2581 for a space and names such as <0x0A> for single bytes (Llama 2, Mistral).
class Detokenizer
{
public:
    //! Throws an Error: FLEXTRON_INPUT_ERROR for a decoder of another kind, FLEXTRON_BUNDLE_ERROR if the file is damaged.
    explicit Detokenizer(std::filesystem::path const& file);

    //! Text without special tokens; bytes that are no characters become U+FFFD.
    [[nodiscard]] std::string decode(std::span<std::int64_t const> ids) const;

private:
    friend class TextStream;

    enum class Kind
    {
        kBytes, //!< a token is bytes
        kPieces, //!< a token is text, or one byte
    };

    struct Token
    {
        std::string bytes; //!< empty for special tokens
        bool single{}; //!< stands for one byte that need not be a character
    };

    void read(Json const& tokenizer);
    void set(std::int64_t id, Token token);
    [[nodiscard]] Token tokenOf(std::string const& name) const;

    Kind mKind{};
    bool mStripsSpace{}; //!< a space that begins the text is none of it
    std::vector<Token> mTokens; //!< by id
};

//! Text of tokens as they come: never half a character. The pieces joined are what `decode` gives for prompt and tokens,
//! less the prompt's text.
class TextStream
{
public:
    //! The detokenizer outlives it.
    explicit TextStream(Detokenizer const& detokenizer, std::span<std::int64_t const> prompt = {});

    //! The text that a token makes ready; empty if its character is not whole yet.
    [[nodiscard]] std::string push(std::int64_t token);

    //! What is left when no token follows.
    [[nodiscard]] std::string finish();

private:
    //! Takes what is ready out of the pending bytes.
    [[nodiscard]] std::string take(bool last);

    Detokenizer const& mDetokenizer;
    std::string mPending; //!< bytes that are no whole character yet
    bool mBegun{}; //!< there has been text
};

} // namespace flextron
