#include "detokenizer.h"

#include "error.h"
#include "utf8.h"

#include <array>
#include <charconv>
#include <map>
#include <optional>

namespace flextron
{

namespace
{

constexpr std::string_view kSpace = "\xe2\x96\x81"; // U+2581
constexpr int kByteValues = 256;

std::string encoded(unsigned codePoint)
{
    // NOLINTBEGIN(*-magic-numbers): up to two bytes are needed here
    if (codePoint < 0x80)
    {
        return {static_cast<char>(codePoint)};
    }
    return {static_cast<char>(0xC0 | codePoint >> 6U), static_cast<char>(0x80 | (codePoint & 0x3FU))};
    // NOLINTEND(*-magic-numbers)
}

//! The byte that a character stands for in byte-level vocabularies: printable ones for themselves, the others for
//! U+0100, U+0101 ... in order (GPT-2's bytes_to_unicode).
std::map<std::string, char, std::less<>> const& byteNames()
{
    static auto const kNames = []
    {
        std::map<std::string, char, std::less<>> names;
        unsigned next = kByteValues;
        for (unsigned byte = 0; byte < kByteValues; ++byte)
        {
            bool const printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
            names.emplace(encoded(printable ? byte : next++), static_cast<char>(byte));
        }
        return names;
    }();
    return kNames;
}

//! The bytes that a token of a byte-level vocabulary stands for; its own if it holds another character.
std::string bytesOf(std::string const& token)
{
    std::string bytes;
    for (std::string_view rest = token; !rest.empty();)
    {
        auto const size = firstPart(rest).size;
        auto const found = byteNames().find(rest.substr(0, size));
        if (found == byteNames().end())
        {
            return token;
        }
        bytes += found->second;
        rest.remove_prefix(size);
    }
    return bytes;
}

//! The byte of a token such as <0x0A>.
std::optional<char> byteToken(std::string_view token)
{
    constexpr std::string_view kBegin = "<0x";
    constexpr std::size_t kSize = 6;
    constexpr int kHexadecimal = 16;
    unsigned value = 0;
    if (token.size() != kSize || !token.starts_with(kBegin) || token.back() != '>')
    {
        return std::nullopt;
    }
    auto const* const end = token.data() + kSize - 1;
    auto const read = std::from_chars(token.data() + kBegin.size(), end, value, kHexadecimal);
    return read.ec == std::errc{} && read.ptr == end ? std::optional(static_cast<char>(value)) : std::nullopt;
}

std::string withSpaces(std::string text)
{
    for (auto at = text.find(kSpace); at != std::string::npos; at = text.find(kSpace, at + 1))
    {
        text.replace(at, kSpace.size(), " ");
    }
    return text;
}

Json const& piecesWithStrip()
{
    static Json const kDecoders = Json::parse(R"([{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}])");
    return kDecoders;
}

} // namespace

Detokenizer::Detokenizer(std::filesystem::path const& file)
{
    try
    {
        read(readObject(file));
    }
    catch (JsonError const& error)
    {
        throw bundleError(file.string() + " is damaged: " + error.what() + ".", "copy the bundle again");
    }
}

void Detokenizer::read(Json const& tokenizer)
{
    auto const decoder = tokenizer.value("decoder", Json());
    auto const type = decoder.is_object() ? readString(member(decoder, "type"), "type") : "none";
    auto const& steps = type == "Sequence" ? member(decoder, "decoders") : decoder;
    auto withoutStrip = piecesWithStrip();
    withoutStrip.erase(withoutStrip.size() - 1);
    if (type == "ByteLevel")
    {
        mKind = Kind::kBytes;
    }
    else if (steps == piecesWithStrip() || steps == withoutStrip)
    {
        mKind = Kind::kPieces;
        mStripsSpace = steps == piecesWithStrip();
    }
    else
    {
        throw inputError("This library cannot turn tokens into text with the decoder " + type + " of the bundle's tokenizer.",
            "pass token ids, or run it from Python", "it knows ByteLevel, and byte fallback as of Llama 2");
    }
    auto const& vocabulary = member(member(tokenizer, "model"), "vocab");
    if (!vocabulary.is_object())
    {
        throw inputError("This library cannot turn tokens into text with the model of the bundle's tokenizer.",
            "pass token ids, or run it from Python", "it knows BPE");
    }
    for (auto const& [name, id] : vocabulary.items())
    {
        set(readInteger(id, "the id of a token"), tokenOf(name));
    }
    for (auto const& added : tokenizer.value("added_tokens", Json::array()))
    {
        auto const special = readBool(member(added, "special"), "special");
        auto const name = readString(member(added, "content"), "content");
        set(readInteger(member(added, "id"), "the id of a token"), special ? Token{} : tokenOf(name));
    }
}

void Detokenizer::set(std::int64_t id, Token token)
{
    constexpr std::int64_t kMost = std::int64_t{1} << 24U;
    if (id < 0 || id >= kMost)
    {
        throw JsonError("a token has the id " + std::to_string(id));
    }
    auto const index = static_cast<std::size_t>(id);
    if (index >= mTokens.size())
    {
        mTokens.resize(index + 1);
    }
    mTokens[index] = std::move(token);
}

Detokenizer::Token Detokenizer::tokenOf(std::string const& name) const
{
    if (mKind == Kind::kBytes)
    {
        return {bytesOf(name), true};
    }
    if (auto const byte = byteToken(name))
    {
        return {std::string(1, *byte), true};
    }
    return {withSpaces(name), false};
}

std::string Detokenizer::decode(std::span<std::int64_t const> ids) const
{
    TextStream stream(*this);
    std::string text;
    for (auto const id : ids)
    {
        text += stream.push(id);
    }
    return text + stream.finish();
}

TextStream::TextStream(Detokenizer const& detokenizer, std::span<std::int64_t const> prompt)
    : mDetokenizer(detokenizer)
{
    for (auto const id : prompt)
    {
        static_cast<void>(push(id));
    }
}

std::string TextStream::push(std::int64_t token)
{
    auto const& tokens = mDetokenizer.mTokens;
    if (token < 0 || static_cast<std::size_t>(token) >= tokens.size())
    {
        return {}; // the vocabulary of a model may be larger than its tokenizer's
    }
    auto const& [bytes, single] = tokens[static_cast<std::size_t>(token)];
    if (bytes.empty())
    {
        return {};
    }
    // A piece of text ends the bytes before it.
    std::string text = single ? "" : take(true);
    mPending += bytes;
    return text + take(false);
}

std::string TextStream::finish()
{
    return take(true);
}

std::string TextStream::take(bool last)
{
    std::string text;
    std::string_view rest = mPending;
    while (!rest.empty())
    {
        auto const part = firstPart(rest);
        if (part.kind == Utf8::kIncomplete && !last)
        {
            break;
        }
        if (part.kind == Utf8::kWhole)
        {
            bool const dropped = !mBegun && mDetokenizer.mStripsSpace && rest.front() == ' ';
            text += dropped ? std::string_view{} : rest.substr(0, part.size);
        }
        else
        {
            // Where bytes have names of their own, each of them shows.
            auto const signs = mDetokenizer.mKind == Detokenizer::Kind::kPieces ? part.size : 1;
            for (std::size_t i = 0; i < signs; ++i)
            {
                text += kReplacement;
            }
        }
        mBegun = true;
        rest.remove_prefix(part.size);
    }
    mPending = std::string(rest);
    return text;
}

} // namespace flextron
