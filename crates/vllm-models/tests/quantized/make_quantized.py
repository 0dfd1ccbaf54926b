"""Writes weights as the common quantizers store them, with the numbers that they stand for.

Pinned: Python 3.11, numpy 2.4.6, ml_dtypes 0.6.0.
Run:    python make_quantized.py

Each file holds the pieces of a weight `layer.weight` under the names of one scheme, `expected` in float32,
and the `quantization_config` in its metadata. Packing is written here from the published formats, one
number at a time, so that it shares nothing with the code under test.
"""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent
OUT, IN = 24, 128
NAMES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
NAMES |= {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}

random = np.random.default_rng(11)


def write(name, config, expected, **pieces):
    pieces = {key.replace("__", ".").replace("--", "__"): value for key, value in pieces.items()}
    tensors = {"expected": np.float32(expected), **pieces}
    header = {"__metadata__": {"quantization_config": json.dumps(config)}}
    body = b""
    for key, value in tensors.items():
        data = np.ascontiguousarray(value).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[key] = {"dtype": NAMES[value.dtype.name], "shape": value.shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (HERE / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def pack(codes, bits, axis, order=None):
    """Codes along `axis` into 32-bit words, lowest bits first, in each word in `order`."""
    per_word = 32 // bits
    codes = np.moveaxis(codes, axis, -1)
    codes = np.pad(codes, [(0, 0), (0, -codes.shape[-1] % per_word)])
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // per_word), np.uint32)
    for slot in range(per_word):
        source = order[slot] if order else slot
        words |= codes[..., source::per_word].astype(np.uint32) << np.uint32(bits * slot)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def codes_scales_zeros(bits, groups, symmetric):
    codes = random.integers(0, 2**bits, (OUT, IN))
    scales = np.float16(random.uniform(0.01, 0.1, (OUT, groups)))
    zeros = random.integers(1, 2**bits, (OUT, groups))
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    return codes, scales, zeros


def numbers(codes, scales, zeros, group_of_input):
    return np.float32(scales)[:, group_of_input] * (codes - zeros[:, group_of_input])


def gptq(name, bits, group_size, shuffled=False, symmetric=False, version=None):
    groups = 1 if group_size == -1 else IN // group_size
    codes, scales, zeros = codes_scales_zeros(bits, groups, symmetric)
    group_of_input = np.arange(IN) // (IN // groups)
    if shuffled:
        group_of_input = random.permutation(group_of_input)
    stored_zeros = zeros if version == "gptq_v2" else zeros - 1
    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": shuffled}
    if version:
        config["checkpoint_format"] = version
    write(
        name,
        config,
        numbers(codes, scales, zeros, group_of_input),
        layer__qweight=pack(codes.T, bits, 0),
        layer__qzeros=pack(stored_zeros.T, bits, 1),
        layer__scales=scales.T,
        layer__g_idx=group_of_input.astype(np.int32),
    )


def awq(name, group_size):
    groups = IN // group_size
    codes, scales, zeros = codes_scales_zeros(4, groups, False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    write(
        name,
        {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm", "zero_point": True},
        numbers(codes, scales, zeros, np.arange(IN) // group_size),
        layer__qweight=pack(codes.T, 4, 1, order),
        layer__qzeros=pack(zeros.T, 4, 1, order),
        layer__scales=scales.T,
    )


def packed(name, bits, group_size, symmetric, shuffled=False):
    groups = 1 if group_size == -1 else IN // group_size
    codes, scales, zeros = codes_scales_zeros(bits, groups, symmetric)
    group_of_input = np.arange(IN) // (IN // groups)
    pieces = {}
    if shuffled:
        group_of_input = random.permutation(group_of_input)
        pieces["layer__weight_g_idx"] = group_of_input.astype(np.int32)
    if not symmetric:
        pieces["layer__weight_zero_point"] = pack(zeros, bits, 0)
    if symmetric:
        scales = scales.astype(ml_dtypes.bfloat16)
    write(
        name,
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        numbers(codes, scales, zeros, group_of_input),
        layer__weight_packed=pack(codes, bits, 1),
        layer__weight_scale=scales,
        layer__weight_shape=np.int64([OUT, IN]),
        **pieces,
    )


def int8(name):
    codes = random.integers(-127, 128, (OUT, IN)).astype(np.int8)
    scales = np.float32(random.uniform(0.001, 0.01, (OUT, 1)))
    write(
        name,
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        codes * scales,
        layer__weight=codes,
        layer__weight_scale=scales,
    )


def fp8(name, config, scales, scale_name, tile, **more):
    weight = random.standard_normal((OUT, IN)).astype(np.float32) * 50
    codes = weight.astype(ml_dtypes.float8_e4m3fn)
    spread = np.repeat(np.repeat(scales, tile[0], 0), tile[1], 1)[:OUT, :IN] if tile else scales
    write(
        name,
        config,
        codes.astype(np.float32) * spread,
        layer__weight=codes,
        **{f"layer__{scale_name}": scales},
        **more,
    )


def nf4(name, nested):
    table = np.float32(np.sort(random.uniform(-1, 1, 16)))
    codes = random.integers(0, 16, OUT * IN)
    run, nested_run = 64, 256
    runs = OUT * IN // run
    state = {"quant_type": "nf4", "blocksize": run, "dtype": "bfloat16", "shape": [OUT, IN]}
    pieces = {}
    if nested:
        nested_table = np.float32(np.linspace(-1, 1, 256))
        indices = random.integers(0, 256, runs).astype(np.uint8)
        outer = np.float32(random.uniform(0.01, 0.1, -(-runs // nested_run)))
        state |= {"nested_blocksize": nested_run, "nested_offset": 0.25}
        scales = nested_table[indices] * np.repeat(outer, nested_run)[:runs] + np.float32(0.25)
        pieces["layer__weight__absmax"] = indices
        pieces["layer__weight__nested_absmax"] = outer
        pieces["layer__weight__nested_quant_map"] = nested_table
    else:
        scales = np.float32(random.uniform(0.01, 0.1, runs))
        pieces["layer__weight__absmax"] = scales
    write(
        name,
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        (table[codes] * np.repeat(scales, run)).reshape(OUT, IN),
        layer__weight=(codes[::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1),
        layer__weight__quant_map=table,
        **{"layer__weight__quant_state__bitsandbytes--nf4": np.frombuffer(json.dumps(state).encode(), np.uint8)},
        **pieces,
    )


def bnb_int8(name):
    codes = random.integers(-127, 128, (OUT, IN)).astype(np.int8)
    scales = np.float32(random.uniform(0.1, 2, OUT))
    write(
        name,
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        np.float32(codes) * scales[:, None] / 127,
        layer__weight=codes,
        layer__SCB=scales,
        layer__weight_format=np.uint8(0).reshape(()),
    )


for group_size in [32, 64, 128, -1]:
    gptq(f"gptq-4bit-{group_size}", 4, group_size)
gptq("gptq-8bit-32", 8, 32)
gptq("gptq-2bit-64", 2, 64)
gptq("gptq-act-order", 4, 32, shuffled=True)
gptq("gptq-symmetric", 4, 64, symmetric=True)
gptq("gptq-second-form", 4, 32, version="gptq_v2")
awq("awq-32", 32)
awq("awq-128", 128)
packed("packed-4bit-symmetric", 4, 32, True)
packed("packed-4bit-zeros", 4, 64, False)
packed("packed-4bit-channels", 4, -1, True)
packed("packed-8bit", 8, 32, False)
packed("packed-act-order", 4, 32, True, shuffled=True)
int8("int8-channels")
dynamic = {"quant_method": "compressed-tensors", "format": "float-quantized"}
per_row = np.float32(random.uniform(0.001, 0.01, (OUT, 1)))
fp8("fp8-channels", dynamic, per_row.astype(ml_dtypes.bfloat16), "weight_scale", None)
static = {"quant_method": "fp8", "activation_scheme": "static"}
fp8("fp8-tensor", static, np.float32([0.01]), "weight_scale", None, layer__input_scale=np.float32([0.1]))
blocks = {"quant_method": "fp8", "weight_block_size": [16, 48]}
per_tile = np.float32(random.uniform(0.001, 0.01, (2, 3)))
fp8("fp8-blocks", blocks, per_tile, "weight_scale_inv", (16, 48))
nf4("nf4", False)
nf4("nf4-nested", True)
bnb_int8("bnb-int8")
