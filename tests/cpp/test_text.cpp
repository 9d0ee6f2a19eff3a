//! Tokens to text: whole characters only, in the ways of GPT-2 and of Llama 2.
#include "detokenizer.h"
#include "error.h"
#include "normalization.h"
#include "temporary_directory.h"
#include "utf8.h"

#include <doctest/doctest.h>

using namespace flextron;

namespace
{

//! A space, a, and the two bytes of u-umlaut (C3 BC) under their names; 4 is special, 5 is added as it stands.
constexpr char const* kBytes = R"({"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE",
    "vocab": {"Ġ": 0, "a": 1, "Ã": 2, "¼": 3, "Ã¼": 6}},
    "added_tokens": [{"id": 4, "content": "</s>", "special": true}, {"id": 5, "content": "<b>", "special": false}]})";

constexpr char const* kPieces = R"({"decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "vocab": {"▁": 0, "▁a": 1, "<0xC3>": 2, "<0xBC>": 3, "ü": 4}}})";

Detokenizer detokenizer(char const* json)
{
    TemporaryDirectory const directory;
    return Detokenizer(directory.write("tokenizer.json", json));
}

//! The pieces of a stream, the last of them what is left.
std::vector<std::string> pieces(
    Detokenizer const& detokenizer, std::vector<std::int64_t> const& ids, std::vector<std::int64_t> const& prompt = {})
{
    TextStream stream(detokenizer, prompt);
    std::vector<std::string> found;
    for (auto const id : ids)
    {
        found.push_back(stream.push(id));
    }
    found.push_back(stream.finish());
    return found;
}

using Pieces = std::vector<std::string>;

} // namespace

TEST_CASE("a character is shown when its last byte has come")
{
    auto const bytes = detokenizer(kBytes);
    CHECK(pieces(bytes, {1, 2, 3, 0, 6}) == Pieces{"a", "", "ü", " ", "ü", ""});
    CHECK(pieces(bytes, {3, 1}, {1, 2}) == Pieces{"ü", "a", ""}); // begun in the prompt
    CHECK(pieces(bytes, {2, 4, 3}) == Pieces{"", "", "ü", ""}); // special tokens are no text
    CHECK(pieces(bytes, {5, 99, -1}) == Pieces{"<b>", "", "", ""});
    CHECK(bytes.decode(std::vector<std::int64_t>{0, 1}) == " a");
}

TEST_CASE("bytes that are no character are shown as such and stop nothing")
{
    auto const bytes = detokenizer(kBytes);
    CHECK(pieces(bytes, {2, 1}) == Pieces{"", "\uFFFDa", ""});
    CHECK(pieces(bytes, {2, 2, 3}) == Pieces{"", "\uFFFD", "ü", ""});
    CHECK(pieces(bytes, {3, 2}) == Pieces{"\uFFFD", "", "\uFFFD"});
    auto const parts = detokenizer(kPieces);
    CHECK(pieces(parts, {2, 4, 3}) == Pieces{"", "\uFFFDü", "\uFFFD", ""});
}

TEST_CASE("a space begins a text only after a prompt")
{
    auto const parts = detokenizer(kPieces);
    CHECK(pieces(parts, {1, 2, 3, 1}) == Pieces{"a", "", "ü", " a", ""});
    CHECK(pieces(parts, {1}, {4}) == Pieces{" a", ""});
    CHECK(pieces(parts, {0, 1}) == Pieces{"", " a", ""});
}

TEST_CASE("tokenizers of other kinds and damaged files are refused")
{
    CHECK_THROWS_WITH_AS(detokenizer(R"({"decoder": {"type": "WordPiece"}, "model": {}})"),
        doctest::Contains("WordPiece"), Error);
    CHECK_THROWS_WITH_AS(
        detokenizer(R"({"decoder": {"type": "ByteLevel"}, "model": {"vocab": [["a", 0]]}})"), doctest::Contains("BPE"), Error);
    for (auto const* damaged : {"{", "{}", R"({"decoder": {"type": "ByteLevel"}, "model": {"vocab": {"a": -1}}})",
             R"({"decoder": {"type": "ByteLevel"}, "model": {"vocab": {"a": 99999999999}}})",
             R"({"decoder": {"type": 3}, "model": {"vocab": {}}})"})
    {
        CAPTURE(damaged);
        CHECK_THROWS_AS(static_cast<void>(detokenizer(damaged)), Error);
    }
}

TEST_CASE("UTF-8 is divided as the standard says")
{
    CHECK(isUtf8("aü水🙂"));
    for (auto const* broken : {"\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "a\xc3"})
    {
        CHECK_FALSE(isUtf8(broken));
    }
    CHECK(firstPart("\xf0\x9f\x99").kind == Utf8::kIncomplete);
    auto const part = firstPart("\xf0\x9fx");
    CHECK((part.kind == Utf8::kBroken && part.size == 2));
}

#ifdef FLEXTRON_UTF8PROC
TEST_CASE("text is composed")
{
    CHECK(normalized("e\u0301a") == "\u00e9a");
    CHECK(normalized("\u1112\u1161\u11ab") == "\ud55c");
}
#endif
