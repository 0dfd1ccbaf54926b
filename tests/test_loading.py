"""Weights and tokenizers as they lie on disk: every wrong one is refused in a sentence, before
memory is spent, and speed can be measured without any."""

import json
import shutil
import struct

import pytest

import support
from support import run_offline

MODEL_FILES = support.ROOT / "crates" / "vllm-demo-model" / "model"
GREEDY = ("--temperature", "0", "--max-tokens", "4")


@pytest.fixture
def model(tmp_path):
    """A copy of the demo model to be spoiled."""
    return shutil.copytree(MODEL_FILES, tmp_path / "model")


def edit_json(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_header(folder, change):
    """Changes the description of the tensors in `model.safetensors`."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


def some_matrix(header):
    return next(name for name, info in header.items() if len(info.get("shape", [])) == 2)


def check_refused(folder, *mentions, arguments=()):
    run = run_offline("--model", str(folder), *GREEDY, *arguments)
    assert run.returncode == 1, f"exit code {run.returncode}\n{run.stderr}"
    assert "panicked" not in run.stderr
    message = run.stderr.strip().splitlines()[-1]
    for mention in mentions:
        assert mention in message, run.stderr


def test_an_unknown_architecture(model):
    edit_json(model / "config.json", architectures=["NoSuchForCausalLM"])
    check_refused(model, "NoSuchForCausalLM", "not supported", "OPTForCausalLM")


def test_a_truncated_file(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    check_refused(model, "model.safetensors", "not a complete safetensors file")


def test_a_missing_tensor(model):
    def rename(header):
        name = some_matrix(header)
        header["other.weight"] = header.pop(name)

    edit_header(model, rename)
    check_refused(model, "is missing from the checkpoint", "model.safetensors")


def test_a_tensor_too_many(model):
    def double(header):
        header["another.weight"] = header[some_matrix(header)]
        # Two tensors may not share bytes, so the new one is empty.
        offsets = header["another.weight"]["data_offsets"]
        header["another.weight"] = {
            **header["another.weight"],
            "shape": [0],
            "data_offsets": [offsets[0], offsets[0]],
        }

    edit_header(model, double)
    check_refused(model, "another.weight")


def test_a_wrong_shape(model):
    def turn(header):
        for info in header.values():
            shape = info.get("shape", [])
            if len(shape) == 2 and shape[0] != shape[1]:
                info["shape"] = shape[::-1]

    edit_header(model, turn)
    check_refused(model, "model.safetensors", "has shape", "expected")


def test_a_tokenizer_of_another_model(model):
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    entries = tokenizer["model"]["vocab"]
    for index in range(vocabulary):
        entries[f"new{index}"] = len(entries)
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    check_refused(model, "tokenizer", str(vocabulary), "do not belong together")


def test_a_file_that_is_no_tokenizer(model):
    (model / "tokenizer.json").write_text("{}")
    check_refused(model, "tokenizer.json")


def test_no_weights_of_the_wanted_kind(model):
    check_refused(model, "no weights found", "'pt'", arguments=("--load-format", "pt"))


def test_float16_is_refused_where_it_overflows(model):
    edit_json(model / "config.json", model_type="gemma2")
    check_refused(model, "'gemma2' does not support float16", arguments=("--dtype", "float16"))


def test_a_context_longer_than_the_model_allows(model):
    check_refused(model, "greater than the derived", arguments=("--max-model-len", "1m"))


def test_the_context_may_be_fitted_to_the_cache(model):
    plan = run_offline(
        "--model", str(model), "--dry-run", "--max-model-len", "auto",
        "--kv-cache-memory-bytes", "1000000",
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    refused = run_offline(
        "--model", str(model), "--dry-run", "--kv-cache-memory-bytes", "1000000"
    )
    assert refused.returncode == 1 and "max seq len" in refused.stderr


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_speed_can_be_measured_without_weights(model, with_tokenizer):
    (model / "model.safetensors").unlink()
    if not with_tokenizer:
        for path in list(model.glob("*token*")) + list(model.glob("*.jinja")):
            path.unlink()
    arguments = ("--model", str(model), *GREEDY, "--ignore-eos", "--load-format", "dummy")
    first, second = run_offline(*arguments), run_offline(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout and first.stdout == second.stdout
