"""Write a Hugging Face Llama as GGUF, without a vocabulary, and quantise it.

    python gguf_file.py MODEL OUT F32|Q8_0|Q4_0

Needs the packages `gguf`, `numpy` and, to quantise, `llama_cpp`; nothing of this project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def read(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file, mapped."""
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view(np.uint64)[0])
    header = json.loads(bytes(data[8 : 8 + size]))
    found = {}
    for name, info in header.items():
        if name != "__metadata__":
            start, stop = (8 + size + n for n in info["data_offsets"])
            found[name] = np.frombuffer(data[start:stop].tobytes(), np.float32).reshape(info["shape"])
    return found


def interleaved(x: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in llama.cpp's order: element i of a head's first half before element i of its second."""
    return x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def write(model: Path, out: Path) -> None:
    import gguf

    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, values in read(model / "model.safetensors").items():
        if name in WHOLE:
            writer.add_tensor(WHOLE[name], values)
            continue
        _, _, layer, *middle, _ = name.split(".")
        ours = NAMES[".".join(middle)]
        if ours in ("attn_q", "attn_k"):
            values = np.ascontiguousarray(interleaved(values, heads if ours == "attn_q" else kv_heads))
        writer.add_tensor(f"blk.{layer}.{ours}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    model, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if kind == "F32":
        write(model, out)
        return
    import llama_cpp

    whole = out.with_suffix(".f32.gguf")
    write(model, whole)
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.pure = 1, True  # pure: every matrix in this kind, the LM head too
    params.ftype = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(out).encode(), params):
        sys.exit("llama.cpp could not quantise it")
    whole.unlink()


if __name__ == "__main__":
    main()
