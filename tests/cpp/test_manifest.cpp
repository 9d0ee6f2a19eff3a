#include "error.h"
#include "json.h"
#include "manifest.h"
#include "precision.h"
#include "temporary_directory.h"
#include "tensors.h"

#include <doctest/doctest.h>
#include <functional>
#include <string>
#include <vector>

using namespace flextron;

namespace
{

Json good()
{
    return parseObject(R"({
        "format": "flextron-bundle", "version": 1,
        "architecture": {"family": "llama", "hidden_size": 8, "num_layers": 1, "num_heads": 8, "num_kv_heads": 4,
            "head_dim": 2, "intermediate_size": 16, "vocab_size": 10, "max_positions": 20, "norm_eps": 1e-6,
            "tied": true, "attention_bias": false, "mlp_bias": false,
            "rope": {"theta": 10000.0, "type": "default", "parameters": {}}},
        "candidates": {"groups": [2, 4], "neurons": [8, 16]},
        "budgets": [{"name": "full", "layers": [[4, 16]], "validation_loss": null},
            {"name": "half", "layers": [[2, 8]], "validation_loss": 1.5}],
        "layouts": {"fp32": ["panels", "per-budget"]},
        "files": {
            "weights.fp32.safetensors": {"bytes": 0, "sha256": ""},
            "graphs/panels.fp32.onnx": {"bytes": 0, "sha256": ""},
            "graphs/per-budget.full.fp32.onnx": {"bytes": 0, "sha256": ""},
            "graphs/per-budget.half.fp32.onnx": {"bytes": 0, "sha256": ""}},
        "unknown": "is ignored"})");
}

} // namespace

TEST_CASE("a manifest is read")
{
    auto const manifest = Manifest::fromJson(good());
    CHECK(manifest.architecture.headsPerGroup() == 2);
    CHECK(manifest.budgets[1].layers[0] == LayerWidth{2, 8});
    CHECK(manifest.budgets[1].validationLoss == 1.5);
    CHECK_FALSE(manifest.budgets[0].validationLoss);
    // q and o: 2 x 16 x 8, k and v: 2 x 8 x 8, FFN: 3 x 16 x 8, two norms and the last one.
    CHECK(manifest.budgets[0].parameters(manifest.architecture) == 256 + 128 + 384 + 16 + 8);
}

TEST_CASE("a bundle with a routed graph opens, but needs the file of that graph")
{
    auto manifest = good();
    manifest["layouts"]["fp32"].push_back("routed");
    CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(manifest)),
        doctest::Contains("graphs/routed.fp32.onnx is not listed"));
    manifest["files"]["graphs/routed.fp32.onnx"] = manifest["files"]["graphs/panels.fp32.onnx"];
    CHECK(Manifest::fromJson(manifest).layouts.at("fp32").back() == "routed");
}

TEST_CASE("quantised precisions say the size of their groups, which divides every width")
{
    auto manifest = good();
    auto const refuses = [&manifest](char const* sentence)
    { CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(manifest)), doctest::Contains(sentence)); };
    manifest["architecture"].update(Json{{"hidden_size", 64}, {"head_dim", 16}, {"intermediate_size", 96}});
    manifest["candidates"]["neurons"] = {64, 96};
    manifest["budgets"][0]["layers"] = {{4, 96}};
    manifest["budgets"][1]["layers"] = {{2, 64}};
    manifest["layouts"]["int4"] = {"panels"};
    for (auto const* const file : {"weights.int4.safetensors", "graphs/panels.int4.onnx"})
    {
        manifest["files"][file] = manifest["files"]["weights.fp32.safetensors"];
    }
    refuses("the group size of int4 is missing");
    manifest["quantization"] = {{"int4", {{"group_size", 32}}}};
    auto const read = Manifest::fromJson(manifest);
    CHECK(read.groupSizes.at("int4") == 32);
    // Embedding 10 x 64, q and o 8 x 16 x 64, k and v 4 x 16 x 64, FFN 96 x 64, three norms of 64.
    std::int64_t const weights = 640 + 2 * 8192 + 2 * 4096 + 3 * 6144;
    CHECK(weightBytes(read, "int4", read.budgets[0]) == weights / 2 + weights / 32 * 4 + 3 * 64 * 4);
    std::int64_t const half = 640 + 8192 + 4096 + 3 * 4096;
    CHECK(weightBytes(read, "int4", read.budgets[1]) == half / 2 + half / 32 * 4 + 3 * 64 * 4);
    CHECK(weightBytes(read, "fp32", read.budgets[0]) == 4 * (weights + 3 * 64));
    manifest["quantization"]["int4"]["group_size"] = 64;
    refuses("int4 has groups of 64: candidate of 96 neurons is no multiple of it");
    manifest["quantization"]["int4"]["group_size"] = 256;
    refuses("candidate of 2 groups is no multiple of it");
    manifest["quantization"]["int4"]["group_size"] = 0;
    refuses("it is none of 16, 32, 64, 128, 256");
    manifest["quantization"]["int4"]["group_size"] = "32";
    refuses("a group size");
    manifest["quantization"] = {{"int4", {{"group_size", 32}}}};
    manifest["layouts"]["int4"] = {"shared"};
    refuses("layout shared is in int4");
}

TEST_CASE("precisions for TensorRT are read, and which layouts they have")
{
    auto manifest = good();
    manifest["architecture"].update(Json{{"hidden_size", 64}, {"head_dim", 16}, {"intermediate_size", 96}});
    manifest["candidates"]["neurons"] = {64, 96};
    manifest["budgets"][0]["layers"] = {{4, 96}};
    manifest["budgets"][1]["layers"] = {{2, 64}};
    manifest["quantization"] = {{"int4-fp16", {{"group_size", 32}}}, {"fp8-fp16", Json::object()}};
    for (std::string const dtype : {"int4-fp16", "fp8-fp16"})
    {
        auto one = manifest;
        one["layouts"] = Json{{dtype, {"panels", "shared"}}};
        for (auto const& file : {"weights." + dtype + ".safetensors", "graphs/panels." + dtype + ".onnx",
                 "graphs/shared." + dtype + ".onnx"})
        {
            one["files"][file] = one["files"]["weights.fp32.safetensors"];
        }
        if (dtype == "fp8-fp16")
        {
            CHECK(Manifest::fromJson(one).layouts.contains(dtype));
            continue;
        }
        CHECK_THROWS_WITH(
            static_cast<void>(Manifest::fromJson(one)), doctest::Contains("layout shared is in int4-fp16"));
        one["quantization"].erase(dtype);
        one["layouts"][dtype] = {"panels"};
        CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(one)), doctest::Contains("size of int4-fp16 is missing"));
    }
}

TEST_CASE("a prompt router is known, and needs its graph")
{
    auto manifest = good();
    manifest["router"] = {{"kind", "prompt"}, {"version", 1}, {"targets", {1.0, 0.5}},
        {"candidates", manifest["candidates"]}};
    CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(manifest)), doctest::Contains("router.onnx is not listed"));
    manifest["files"]["router.onnx"] = manifest["files"]["graphs/panels.fp32.onnx"];
    CHECK(Manifest::fromJson(manifest).promptRouter->targets == std::vector<double>{1, 0.5});
    auto other = manifest;
    other["router"]["candidates"]["groups"] = {4};
    CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(other)), doctest::Contains("other candidates"));
    for (auto const& targets : {Json::array(), Json{0.5, 1.0}, Json{1.0, 0.0}, Json{2.0}})
    {
        other = manifest;
        other["router"]["targets"] = targets;
        CHECK_THROWS_AS(static_cast<void>(Manifest::fromJson(other)), JsonError);
    }
    manifest["router"]["kind"] = "dynamic";
    CHECK_FALSE(Manifest::fromJson(manifest).promptRouter);
}

TEST_CASE("the features of other families change the tensors and the parameters")
{
    auto const names = [](Json const& manifest)
    {
        std::vector<std::string> found;
        for (auto const& spec : tensorSpecs(Manifest::fromJson(manifest).architecture))
        {
            found.push_back(spec.name);
        }
        return found;
    };
    auto const parameters = [](Json const& value)
    {
        auto const manifest = Manifest::fromJson(value);
        return manifest.budgets[0].parameters(manifest.architecture);
    };
    auto const plain = parameters(good());

    auto gpt2 = good();
    gpt2["architecture"].update(Json{{"family", "gpt2"}, {"rope", nullptr}, {"norm", "layer"}, {"gated", false},
        {"activation", "gelu_tanh"}, {"attention_bias", true}, {"mlp_bias", true}});
    CHECK(names(gpt2)
        == std::vector<std::string>{"embedding", "position_embedding", "layers.0.attention_norm",
            "layers.0.attention_norm_bias", "layers.0.q", "layers.0.q_bias", "layers.0.k", "layers.0.k_bias",
            "layers.0.v", "layers.0.v_bias", "layers.0.o", "layers.0.o_bias", "layers.0.ffn_norm",
            "layers.0.ffn_norm_bias", "layers.0.up", "layers.0.up_bias", "layers.0.down", "layers.0.down_bias", "norm",
            "norm_bias"});
    // Without gate, with the biases of three norms, of q, k, v and o, and of up and down.
    CHECK(parameters(gpt2) == plain - 128 + 24 + (16 + 8 + 8 + 8) + (16 + 8));

    auto qwen = good();
    qwen["architecture"].update(Json{{"family", "qwen3"}, {"qk_norm", true}, {"attention_bias", true},
        {"attention_output_bias", false}, {"windows", {5}}});
    CHECK(names(qwen)
        == std::vector<std::string>{"embedding", "layers.0.attention_norm", "layers.0.q", "layers.0.q_bias",
            "layers.0.k", "layers.0.k_bias", "layers.0.v", "layers.0.v_bias", "layers.0.q_norm", "layers.0.k_norm",
            "layers.0.o", "layers.0.ffn_norm", "layers.0.gate", "layers.0.up", "layers.0.down", "norm"});
    CHECK(parameters(qwen) == plain + (16 + 8 + 8) + 2 * 2);
}

TEST_CASE("what does not fit is refused and named")
{
    struct Fault
    {
        std::function<void(Json&)> change;
        char const* named;
    };
    std::vector<Fault> const faults{
        {[](Json& m) { m["format"] = "other"; }, "format"},
        {[](Json& m) { m["version"] = 2; }, "version 2"},
        {[](Json& m) { m.erase("budgets"); }, "budgets"},
        {[](Json& m) { m["budgets"] = Json::array(); }, "no budget"},
        {[](Json& m) { m["budgets"] = 3; }, "name"},
        {[](Json& m) { m["budgets"][1]["name"] = "full"; }, "twice"},
        {[](Json& m) { m["budgets"][0]["name"] = "../x"; }, "characters"},
        {[](Json& m) { m["budgets"][0]["layers"][0][0] = 3; }, "candidates"},
        {[](Json& m) { m["budgets"][0]["layers"][0] = 3; }, "list of integers"},
        {[](Json& m) { m["budgets"][0]["layers"].push_back({4, 16}); }, "2 layers"},
        {[](Json& m) { m["candidates"]["groups"] = {4, 2}; }, "ascending"},
        {[](Json& m) { m["candidates"]["neurons"] = {8}; }, "full width"},
        {[](Json& m) { m["architecture"]["new"] = 1; }, "unknown 'new'"},
        {[](Json& m) { m["architecture"]["family"] = "mamba"; }, "mamba"},
        {[](Json& m) { m["architecture"]["norm"] = "batch"; }, "norm 'batch'"},
        {[](Json& m) { m["architecture"]["activation"] = "mish"; }, "mish"},
        {[](Json& m) { m["architecture"]["gated"] = 0; }, "gated"},
        {[](Json& m) { m["architecture"]["qk_norm"] = true; }, "the family 'llama' has no q_norm"},
        {[](Json& m) { m["architecture"]["rope"] = nullptr; }, "the family 'llama' has no position_embedding"},
        {[](Json& m) { m["architecture"]["family"] = "gpt2"; }, "the family 'gpt2' has no gate"},
        {[](Json& m) { m["router"] = {{"kind", "prompt"}}; }, "version"},
        {[](Json& m) { m["architecture"]["windows"] = {4, 4}; }, "windows"},
        {[](Json& m) { m["architecture"]["windows"] = {-4}; }, "windows"},
        {[](Json& m) { m["architecture"]["head_dim"] = 3; }, "not even"},
        {[](Json& m) { m["architecture"]["num_layers"] = 1LL << 60U; }, "num_layers"},
        {[](Json& m) { m["architecture"]["num_kv_heads"] = 0; }, "num_kv_heads"},
        {[](Json& m) { m["architecture"]["num_kv_heads"] = 3; }, "multiple"},
        {[](Json& m) { m["architecture"]["tied"] = 1; }, "tied"},
        {[](Json& m) { m["layouts"]["int3"] = {"panels"}; }, "int3"},
        {[](Json& m) { m["layouts"]["fp32"] = {"new"}; }, "new"},
        {[](Json& m) { m["layouts"]["fp32"] = Json::array(); }, "no graphs"},
        {[](Json& m) { m["files"].erase("graphs/panels.fp32.onnx"); }, "not listed"},
        {[](Json& m) { m["files"]["../x"] = m["files"]["graphs/panels.fp32.onnx"]; }, "leaves"},
        {[](Json& m) { m["files"]["/x"] = m["files"]["graphs/panels.fp32.onnx"]; }, "leaves"},
        {[](Json& m) { m["files"]["a\\b"] = m["files"]["graphs/panels.fp32.onnx"]; }, "leaves"},
        {[](Json& m) { m["files"][""] = m["files"]["graphs/panels.fp32.onnx"]; }, "leaves"},
        {[](Json& m) { m["files"]["graphs/panels.fp32.onnx"] = 1; }, "bytes"},
    };
    for (auto const& fault : faults)
    {
        CAPTURE(fault.named);
        auto manifest = good();
        fault.change(manifest);
        CHECK_THROWS_WITH(static_cast<void>(Manifest::fromJson(manifest)), doctest::Contains(fault.named));
    }
}

TEST_CASE("every value may be of another kind without a crash")
{
    std::vector<Json> const others{nullptr, true, -1, 1.5, "x", Json::array(), Json::object(), Json::array({1, "y"})};
    auto const flat = good().flatten();
    for (auto const& [pointer, ignored] : flat.items())
    {
        for (auto place = Json::json_pointer(pointer); !place.empty(); place.pop_back())
        {
            for (auto const& other : others)
            {
                auto manifest = good();
                manifest[place] = other;
                CAPTURE(place.to_string());
                try
                {
                    static_cast<void>(Manifest::fromJson(manifest));
                }
                catch (JsonError const&)
                {
                }
                catch (Error const&) // a newer version
                {
                }
            }
        }
    }
}

TEST_CASE("damaged files are all named")
{
    TemporaryDirectory const directory;
    auto manifest = good();
    manifest["files"]["weights.fp32.safetensors"]["bytes"] = 5;
    static_cast<void>(directory.write("manifest.json", manifest.dump()));
    static_cast<void>(directory.write("weights.fp32.safetensors", "four"));
    auto const open = [&directory] { static_cast<void>(Bundle::open(directory.path(), true)); };
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("weights.fp32.safetensors has 4 bytes instead of 5"), Error);
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("graphs/panels.fp32.onnx is missing"), Error);
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("manifest.sha256 is missing"), Error);
    static_cast<void>(directory.write("manifest.sha256", std::string(64, '0') + "  manifest.json\n"));
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("manifest.json was altered"), Error);
    static_cast<void>(directory.write("manifest.json", "{"));
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("damaged"), Error);
    std::filesystem::remove(directory.path() / "manifest.json");
    CHECK_THROWS_WITH_AS(open(), doctest::Contains("is not a bundle"), Error);
}
