#include "end_of_text.h"

#include "error.h"
#include "json.h"

namespace flextron
{

namespace
{

//! Id of a token that the tokenizer was given by name, or of its vocabulary.
std::set<std::int64_t> idsOf(std::string const& token, Json const& tokenizer)
{
    for (auto const& added : tokenizer.value("added_tokens", Json::array()))
    {
        if (member(added, "content") == token)
        {
            return {readInteger(member(added, "id"), "the id of a token")};
        }
    }
    auto const& model = member(tokenizer, "model");
    auto const vocabulary = model.find("vocab");
    if (vocabulary != model.end() && vocabulary->is_object() && vocabulary->contains(token))
    {
        return {readInteger((*vocabulary)[token], "the id of a token")};
    }
    return {};
}

Json readIfThere(std::filesystem::path const& file)
{
    return std::filesystem::exists(file) ? readObject(file) : Json::object();
}

} // namespace

std::set<std::int64_t> endOfText(std::filesystem::path const& bundle)
{
    if (!std::filesystem::exists(bundle / "tokenizer.json"))
    {
        return {};
    }
    try
    {
        for (auto const* name : {"generation_config.json", "config.json"})
        {
            auto const config = readIfThere(bundle / name);
            if (auto const found = config.find("eos_token_id"); found != config.end() && !found->is_null())
            {
                auto const ids = readIntegers(found->is_array() ? *found : Json::array({*found}), "eos_token_id");
                return {ids.begin(), ids.end()};
            }
        }
        auto const config = readIfThere(bundle / "tokenizer_config.json");
        auto const token = config.find("eos_token");
        if (token == config.end() || token->is_null())
        {
            return {};
        }
        auto const& name = token->is_object() ? member(*token, "content") : *token;
        return idsOf(readString(name, "eos_token"), readObject(bundle / "tokenizer.json"));
    }
    catch (JsonError const& error)
    {
        throw bundleError("The tokenizer files of " + bundle.string() + " are damaged: " + error.what() + ".",
            "copy the bundle again, or export it again");
    }
}

} // namespace flextron
