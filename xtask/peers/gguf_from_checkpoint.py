"""Writes a synthetic checkpoint as GGUF files for llama.cpp.

    python gguf_from_checkpoint.py CHECKPOINT OUT_FOLDER

Knows the Llama and Qwen3 layouts. The vocabulary is made up, one word per id, because the
measurements send token ids. OUT_FOLDER gets bf16.gguf, q8_0.gguf and q4_k_m.gguf; the latter two
are quantized by llama.cpp itself.
"""

import json
import struct
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(folder):
    """Yields (name, shape, the bf16 values as uint16) of a checkpoint of one file."""
    with open(folder / "model.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data = np.memmap(folder / "model.safetensors", dtype=np.uint8, mode="r", offset=8 + length)
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}"
            begin, end = entry["data_offsets"]
            yield name, entry["shape"], data[begin:end].view(np.uint16).reshape(entry["shape"])


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in OTHER_NAMES:
        return OTHER_NAMES[stem] + ".weight"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{BLOCK_NAMES[part]}.weight"


def permuted(values, heads):
    """The order of rotary rows that llama.cpp's Llama layout expects: pairs side by side."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_bf16(folder, out):
    config = json.loads((folder / "config.json").read_text())
    architecture = config["model_type"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = letters + [f"w{number}" for number in range(config["vocab_size"] - len(letters))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["w 1"])
    writer.add_eos_token_id(0)

    for name, shape, values in tensors(folder):
        if len(shape) == 1:
            values = (values.astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(gguf_name(name), values)
            continue
        if architecture == "llama" and ".q_proj." in name:
            values = permuted(values, heads)
        if architecture == "llama" and ".k_proj." in name:
            values = permuted(values, kv_heads)
        raw = np.ascontiguousarray(values).view(np.uint8)
        writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, target, file_type):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    assert status == 0, f"llama.cpp cannot write {target}"


def main(folder, out):
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "bf16.gguf").exists():
        write_bf16(folder, out / "partial.gguf")
        (out / "partial.gguf").rename(out / "bf16.gguf")
    for name, file_type in [
        ("q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0),
        ("q4_k_m", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ]:
        if not (out / f"{name}.gguf").exists():
            quantize(out / "bf16.gguf", out / "partial.gguf", file_type)
            (out / "partial.gguf").rename(out / f"{name}.gguf")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
