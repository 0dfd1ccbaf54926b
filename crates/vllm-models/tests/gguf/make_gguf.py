"""Writes checkpoints of `../fixtures` as GGUF files, with the names and settings of the gguf package.

Pinned: Python 3.11, gguf 0.19.0, numpy 2.4.6.
Run:    python make_gguf.py

Matrices are bfloat16 as in the checkpoints, vectors float32. What a GGUF file changes in the weights
follows the published converter: rows of queries and keys of Llama-like models take turns between the two
halves of a head, the norms of Gemma have 1 added, experts are stacked.
"""

import json
import math
import struct
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, quants

HERE = Path(__file__).parent

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen2-moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3-moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "phi3-longrope-long": gguf.MODEL_ARCH.PHI3,
}


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    body = data[8 + length :]
    for name, info in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        raw = body[begin:end]
        if info["dtype"] == "BF16":
            numbers = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[info["dtype"]])
        yield name, numbers.astype(np.float32).reshape(info["shape"])


def interleave(weight, heads):
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def stack_experts(tensors):
    stacked, others = {}, {}
    for name, weight in tensors.items():
        head, found, tail = name.partition(".experts.")
        if found:
            expert, _, part = tail.partition(".")
            stacked.setdefault(f"{head}.experts.{part}", {})[int(expert)] = weight
        else:
            others[name] = weight
    for name, experts in stacked.items():
        others[name] = np.stack([experts[i] for i in range(len(experts))])
    return others


def settings(writer, config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    whole = rope.get("full_attention", rope)
    writer.add_rope_freq_base(whole.get("rope_theta", 10000.0))
    if whole.get("rope_type") in ("linear", "yarn"):
        kind = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}
        writer.add_rope_scaling_type(kind[whole["rope_type"]])
        writer.add_rope_scaling_factor(whole["factor"])
        if original := whole.get("original_max_position_embeddings"):
            writer.add_rope_scaling_orig_ctx_len(original)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if experts := config.get("num_experts") or config.get("num_local_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if width := config.get("moe_intermediate_size"):
            writer.add_expert_feed_forward_length(width)
    if cap := config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(cap)
    if cap := config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(cap)
    turning = int(head_dim * whole.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(turning)
    if whole.get("rope_type") == "llama3":
        add_vector(writer, "rope_freqs.weight", llama3_factors(whole, turning))
    if whole.get("rope_type") == "longrope":
        writer.add_rope_scaling_orig_ctx_len(whole["original_max_position_embeddings"])
        for kind in ["long", "short"]:
            add_vector(writer, f"rope_factors_{kind}.weight", np.float32(whole[f"{kind}_factor"]))


def llama3_factors(rope, dim):
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.float32(factors)


def add_vector(writer, name, vector):
    writer.add_tensor(name, vector.astype(np.float32))


def convert(name, architecture):
    source = HERE.parent / "fixtures" / name
    config = json.loads((source / "config.json").read_text())
    tensors = stack_experts(dict(read_safetensors(source / "model.safetensors")))
    writer = GGUFWriter(HERE / f"{name}.gguf", gguf.MODEL_ARCH_NAMES[architecture])
    settings(writer, config)
    names = [
        gguf.get_tensor_name_map(a, config["num_hidden_layers"]) for a in (architecture, gguf.MODEL_ARCH.QWEN3)
    ]
    for tensor_name, weight in tensors.items():
        # Layers without experts are named as in families without any.
        gguf_name = next(filter(None, (n.get_name(tensor_name, (".weight", ".bias")) for n in names)), None)
        if not gguf_name:
            raise SystemExit(f"{name}: no name for {tensor_name}")
        if architecture == gguf.MODEL_ARCH.LLAMA and "_proj" in tensor_name:
            if ".q_proj." in tensor_name:
                weight = interleave(weight, config["num_attention_heads"])
            elif ".k_proj." in tensor_name:
                weight = interleave(weight, config["num_key_value_heads"])
        if "gemma" in name and gguf_name.endswith("norm.weight"):
            weight = weight + 1
        if gguf_name.endswith("ffn_gate_inp_shexp.weight"):
            weight = weight.squeeze()
        if weight.ndim == 1:
            add_vector(writer, gguf_name, weight)
        else:
            packed = quants.quantize(np.ascontiguousarray(weight), Type.BF16)
            writer.add_tensor(gguf_name, packed, raw_dtype=Type.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


for fixture_name, fixture_architecture in ARCHITECTURES.items():
    convert(fixture_name, fixture_architecture)
