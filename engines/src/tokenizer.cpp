#include "tokenizer.h"

#include "error.h"
#include "json.h"
#include "normalization.h"
#include "shared_library.h"
#include "utf8.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace flextron
{

namespace
{

constexpr char const* kAnswer = "pass token ids, or run it from Python";

//! How texts are split before their parts become tokens, apart from GPT-2's way: Llama 3's and Qwen's. The library ends
//! the process at a pattern that it does not know.
constexpr std::array<std::string_view, 2> kPatterns{
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

std::string typeOf(Json const& step)
{
    return step.is_object() ? readString(member(step, "type"), "type") : "none";
}

bool flag(Json const& step, char const* name)
{
    return step.contains(name) && readBool(step[name], name);
}

//! The parts of a sequence of steps, or the step itself.
std::vector<Json> stepsOf(Json const& tokenizer, char const* name, char const* parts)
{
    auto const step = tokenizer.value(name, Json());
    if (typeOf(step) != "Sequence")
    {
        return {step};
    }
    auto const& found = member(step, parts);
    return {found.begin(), found.end()};
}

bool isKnownSplit(Json const& step)
{
    if (typeOf(step) == "Digits")
    {
        return flag(step, "individual_digits");
    }
    if (typeOf(step) != "Split" || readString(member(step, "behavior"), "behavior") != "Isolated" || flag(step, "invert"))
    {
        return false;
    }
    auto const& pattern = member(step, "pattern");
    return pattern.contains("Regex")
        && std::find(kPatterns.begin(), kPatterns.end(), readString(pattern["Regex"], "a pattern")) != kPatterns.end();
}

//! Why the library is not known to give the tokens of the original; nothing if it is.
std::optional<std::string> unknown(Json const& tokenizer)
{
    auto const& model = member(tokenizer, "model");
    if (typeOf(model) != "BPE" || flag(model, "byte_fallback"))
    {
        return "its model is " + typeOf(model) + (flag(model, "byte_fallback") ? " with byte fallback" : "");
    }
    if (auto const type = typeOf(tokenizer.value("normalizer", Json())); type != "none" && type != "NFC")
    {
        return "its normalizer is " + type;
    }
    auto const splits = stepsOf(tokenizer, "pre_tokenizer", "pretokenizers");
    auto const last = splits.empty() ? Json() : splits.back();
    bool const gpt2 = last.is_object() && last.value("use_regex", Json(true)) == true;
    bool const known = typeOf(last) == "ByteLevel" && !flag(last, "add_prefix_space")
        && (splits.size() == 1 ? gpt2 : splits.size() == 2 && isKnownSplit(splits.front())
                && gpt2 == (typeOf(splits.front()) == "Digits"));
    if (!known)
    {
        return "it splits texts in a way of its own";
    }
    for (auto const& step : stepsOf(tokenizer, "post_processor", "processors"))
    {
        if (auto const type = typeOf(step); type != "none" && type != "ByteLevel" && type != "TemplateProcessing")
        {
            return "it completes texts by " + type;
        }
    }
    for (auto const& added : tokenizer.value("added_tokens", Json::array()))
    {
        if (flag(added, "lstrip") || flag(added, "rstrip") || flag(added, "single_word"))
        {
            return "the token " + readString(member(added, "content"), "content") + " takes spaces around it";
        }
    }
    return std::nullopt;
}

} // namespace

//! The functions of onnxruntime-extensions that are used here (its header is include/ortx_tokenizer.h).
struct Tokenizer::Library
{
    using Object = void*;
    using Create = int(Object*, char const*, char const**, char const**, std::size_t);

    explicit Library(std::string const& path)
        : library("onnxruntime-extensions",
            libraryNames(path, "FLEXTRON_TOKENIZERS", {"libortextensions.so", "libonnxruntime_extensions.so"}),
            "OrtxTokenize",
            "pass the path of libortextensions.so, or of _extensions_pydll*.so of the Python package together with "
            "LD_PRELOAD=libpython3.11.so (--tokenizers, or the environment variable FLEXTRON_TOKENIZERS), or pass token "
            "ids")
        , create(library.find<Create>("OrtxCreateTokenizerWithOptions"))
        , tokenize(library.find<int(Object, char const**, std::size_t, Object*)>("OrtxTokenize"))
        , item(library.find<int(Object, std::size_t, std::uint32_t const**, std::size_t*)>("OrtxTokenId2DArrayGetItem"))
        , dispose(library.find<int(Object*)>("OrtxDispose"))
        , lastError(library.find<char const*()>("OrtxGetLastErrorMessage"))
    {
        if (create == nullptr || item == nullptr || dispose == nullptr || lastError == nullptr)
        {
            throw Error(FLEXTRON_MISSING_DEPENDENCY, "onnxruntime-extensions lacks functions of its C interface.", {},
                "use release 0.15 or newer");
        }
    }

    SharedLibrary library;
    Create* create;
    int (*tokenize)(Object, char const**, std::size_t, Object*);
    int (*item)(Object, std::size_t, std::uint32_t const**, std::size_t*);
    int (*dispose)(Object*);
    char const* (*lastError)();
};

Tokenizer::Tokenizer(std::filesystem::path const& bundle, std::string const& library)
{
    auto const file = bundle / "tokenizer.json";
    try
    {
        auto const tokenizer = readObject(file);
        if (auto const why = unknown(tokenizer))
        {
            throw inputError(
                "This library does not turn text into tokens with the bundle's tokenizer: " + *why + ".", kAnswer);
        }
        readTemplate(tokenizer);
        mNormalizes = typeOf(tokenizer.value("normalizer", Json())) == "NFC";
    }
    catch (JsonError const& error)
    {
        throw bundleError(file.string() + " is damaged: " + error.what() + ".", "copy the bundle again");
    }
    mLibrary = std::make_unique<Library>(library);
    // It would take them from another file than the original does.
    auto const* key = "add_special_tokens";
    auto const* value = "false";
    if (mLibrary->create(&mTokenizer, bundle.c_str(), &key, &value, 1) != 0)
    {
        throw Error(FLEXTRON_TARGET_ERROR,
            "onnxruntime-extensions refuses the tokenizer of " + bundle.string() + ": " + mLibrary->lastError(), {},
            kAnswer);
    }
}

void Tokenizer::readTemplate(Json const& tokenizer)
{
    for (auto const& step : stepsOf(tokenizer, "post_processor", "processors"))
    {
        if (typeOf(step) != "TemplateProcessing")
        {
            continue;
        }
        auto* ids = &mBefore;
        for (auto const& part : member(step, "single"))
        {
            if (!part.contains("SpecialToken"))
            {
                ids = &mAfter; // the text itself
                continue;
            }
            auto const name = readString(member(part["SpecialToken"], "id"), "a token");
            auto const added = readIntegers(
                member(member(member(step, "special_tokens"), name.c_str()), "ids"), "the ids of a token");
            ids->insert(ids->end(), added.begin(), added.end());
        }
    }
}

Tokenizer::~Tokenizer()
{
    if (mTokenizer != nullptr)
    {
        mLibrary->dispose(&mTokenizer);
    }
}

std::vector<std::int64_t> Tokenizer::encode(std::string const& text) const
{
    if (!isUtf8(text) || text.find('\0') != std::string::npos)
    {
        throw inputError("The prompt is not UTF-8 text.", "convert it to UTF-8");
    }
    auto const input = mNormalizes ? normalized(text) : text;
    char const* pointer = input.c_str();
    void* result = nullptr;
    if (mLibrary->tokenize(mTokenizer, &pointer, 1, &result) != 0)
    {
        throw inputError(std::string("The prompt cannot be tokenized: ") + mLibrary->lastError(), kAnswer);
    }
    std::uint32_t const* ids = nullptr;
    std::size_t count = 0;
    auto const status = mLibrary->item(result, 0, &ids, &count);
    std::vector<std::int64_t> found = mBefore;
    if (status == 0)
    {
        found.insert(found.end(), ids, ids + count);
    }
    mLibrary->dispose(&result);
    found.insert(found.end(), mAfter.begin(), mAfter.end());
    return found;
}

} // namespace flextron
