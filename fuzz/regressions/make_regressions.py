"""Writes files that lie about themselves: each is to be refused with a sentence.

Run: python make_regressions.py
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
HUGE = 2**64 - 1


def u32(number):
    return struct.pack("<I", number)


def u64(number):
    return struct.pack("<Q", number)


def text(value):
    return u64(len(value)) + value.encode()


def entry(key, kind, value):
    return text(key) + u32(kind) + value


def tensor(name, shape, kind, offset):
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


def gguf(entries=(), tensors=(), data=b"\0" * 64, num_entries=None, num_tensors=None, version=3):
    head = b"GGUF" + u32(version)
    head += u64(len(tensors) if num_tensors is None else num_tensors)
    head += u64(len(entries) if num_entries is None else num_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


ARCHITECTURE = entry("general.architecture", 8, text("llama"))


def part(number, count, tensors_count, name):
    entries = [
        ARCHITECTURE,
        entry("split.no", 2, struct.pack("<H", number)),
        entry("split.count", 2, struct.pack("<H", count)),
        entry("split.tensors.count", 5, struct.pack("<i", tensors_count)),
    ]
    return gguf(entries, [tensor(name, [4], 0, 0)])


def split(*parts):
    """Several files in one: `FUZZSPLT`, then length and bytes of each."""
    return b"FUZZSPLT" + b"".join(u32(len(part)) + part for part in parts)


ONE, TWO = "blk.0.attn_norm.weight", "blk.1.attn_norm.weight"
GGUF = {
    "empty": b"",
    "magic-only": b"GGUF",
    "version-0": gguf(version=0),
    "big-endian": b"GGUF\0\0\0\3" + b"\0" * 64,
    "tensor-count": gguf(num_tensors=HUGE),
    "entry-count": gguf(num_entries=HUGE),
    "entry-count-near-the-end": gguf(num_entries=6),
    "key-length": gguf([u64(HUGE) + b"key" + u32(4) + u32(0)]),
    "text-length": gguf([text("k") + u32(8) + u64(2**40) + b"short"]),
    "text-length-wraps": gguf([text("k") + u32(8) + u64(HUGE - 7) + b"short"]),
    "list-length": gguf([text("k") + u32(9) + u32(8) + u64(2**60)]),
    "list-of-bytes-length": gguf([text("k") + u32(9) + u32(0) + u64(HUGE)]),
    "lists-within-lists": gguf([text("k") + u32(9) + (u32(9) + u64(1)) * 2000 + u32(4) + u64(0)]),
    "value-type": gguf([text("k") + u32(13) + u64(0)]),
    "key-twice": gguf([ARCHITECTURE, ARCHITECTURE]),
    "alignment-0": gguf([entry("general.alignment", 4, u32(0))], [tensor(ONE, [4], 0, 0)]),
    "alignment-3": gguf([entry("general.alignment", 4, u32(3))], [tensor(ONE, [4], 0, 0)]),
    "alignment-huge": gguf([entry("general.alignment", 4, u32(2**31))], [tensor(ONE, [4], 0, 0)]),
    "tensor-twice": gguf([ARCHITECTURE], [tensor(ONE, [4], 0, 0)] * 2),
    "dimensions-0": gguf([ARCHITECTURE], [tensor(ONE, [], 0, 0)]),
    "dimensions-many": gguf([ARCHITECTURE], [text(ONE) + u32(2**32 - 1) + u64(1) * 8]),
    "dimension-of-0": gguf([ARCHITECTURE], [tensor(ONE, [4, 0], 0, 0)]),
    "shape-wraps": gguf([ARCHITECTURE], [tensor(ONE, [2**32, 2**32], 0, 0)]),
    "shape-wraps-to-little": gguf([ARCHITECTURE], [tensor(ONE, [2**62, 2**2, 2, 1], 0, 0)]),
    "offset-beyond": gguf([ARCHITECTURE], [tensor(ONE, [4], 0, 2**20)]),
    "offset-wraps": gguf([ARCHITECTURE], [tensor(ONE, [4], 0, HUGE - 31)]),
    "offset-unaligned": gguf([ARCHITECTURE], [tensor(ONE, [4], 0, 5)]),
    "half-a-block": gguf([ARCHITECTURE], [tensor(ONE, [31], 8, 0)]),
    "type-unknown": gguf([ARCHITECTURE], [tensor(ONE, [4], 77, 0)]),
    "type-not-read": gguf([ARCHITECTURE], [tensor(ONE, [256], 16, 0)]),
    "architecture-missing": gguf([], [tensor(ONE, [4], 0, 0)]),
    "architecture-no-text": gguf([entry("general.architecture", 4, u32(1))], [tensor(ONE, [4], 0, 0)]),
    "architecture-unknown": gguf([entry("general.architecture", 8, text("abacus"))], [tensor(ONE, [4], 0, 0)]),
    "tensor-unknown": gguf([ARCHITECTURE], [tensor("blk.99999999999999999999.x.weight", [4], 0, 0)]),
    "heads-cut": gguf(
        [ARCHITECTURE, entry("llama.attention.head_count", 4, u32(3))],
        [tensor("blk.0.attn_q.weight", [4, 4], 0, 0)],
    ),
    "split-of-itself": split(part(0, 2, 2, ONE), part(0, 2, 2, ONE)),
    "split-cycle": split(part(1, 2, 2, ONE), part(0, 2, 2, TWO), part(1, 2, 2, ONE)),
    "split-count-huge": split(part(0, 2**16 - 1, 2, ONE), part(1, 2**16 - 1, 2, TWO)),
    "split-count-0": split(part(0, 0, 2, ONE), part(1, 0, 2, TWO)),
    "split-number-beyond": split(part(0, 2, 2, ONE), part(9, 2, 2, TWO)),
    "split-same-tensor": split(part(0, 2, 2, ONE), part(1, 2, 2, ONE)),
    "split-tensor-missing": split(part(0, 2, 3, ONE), part(1, 2, 3, TWO)),
    "split-part-missing": split(part(0, 2, 2, ONE)),
}


def safetensors(header, data=b"\0" * 64, length=None):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(body) if length is None else length) + body + data


def info(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "empty": b"",
    "length-only": u64(8),
    "length-huge": safetensors({}, length=HUGE),
    "length-beyond": safetensors({}, length=4096),
    "length-0": safetensors(b"", length=0),
    "no-json": safetensors(b"{" * 64),
    "no-object": safetensors([1, 2]),
    "nested-deeply": safetensors(b'{"a":' * 4000 + b"1" + b"}" * 4000),
    "no-utf8": safetensors(b'{"\xff\xfe": 1}'),
    "dtype-unknown": safetensors({"a": info("F7", [16], 0, 64)}),
    "offsets-turned": safetensors({"a": info("F32", [16], 64, 0)}),
    "offsets-beyond": safetensors({"a": info("F32", [2**20], 0, 2**22)}),
    "offsets-overlap": safetensors({"a": info("F32", [16], 0, 64), "b": info("F32", [8], 32, 64)}),
    "offsets-gap": safetensors({"a": info("F32", [4], 0, 16), "b": info("F32", [4], 48, 64)}),
    "offsets-huge": safetensors({"a": info("F32", [16], HUGE - 64, HUGE)}),
    "shape-other": safetensors({"a": info("F32", [15], 0, 64)}),
    "shape-wraps": safetensors({"a": info("F32", [2**62, 16], 0, 64)}),
    "shape-negative": safetensors({"a": info("F32", [-16], 0, 64)}),
    "data-missing": safetensors({"a": info("F32", [16], 0, 64)}, data=b""),
    "data-left-over": safetensors({"a": info("F32", [8], 0, 32)}),
}

for folder, files in [("gguf", GGUF), ("safetensors", SAFETENSORS)]:
    (HERE / folder).mkdir(exist_ok=True)
    for name, contents in files.items():
        (HERE / folder / name).write_bytes(contents)
