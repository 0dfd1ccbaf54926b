"""`vllm-offline convert`: what it writes is read by the `gguf` package and served to the `openai` one."""

import json
import shutil
import struct

import gguf
import numpy
import openai
import pytest

import support
from support import run_offline, serving

DEMO = support.ROOT / "crates" / "vllm-demo-model" / "model"
HIDDEN, INNER, VOCABULARY = 256, 256, 2048
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "dtype": "float32",
}
PROMPT = "The capital of France is"


def weights():
    numbers = numpy.random.default_rng(5)
    shapes = {
        "model.embed_tokens": (VOCABULARY, HIDDEN),
        "model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        "model.layers.0.self_attn.v_proj": (HIDDEN // 2, HIDDEN),
        "model.layers.0.self_attn.o_proj": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.gate_proj": (INNER, HIDDEN),
        "model.layers.0.mlp.up_proj": (INNER, HIDDEN),
        "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
    }
    made = {f"{name}.weight": numbers.normal(0, 0.1, shape).astype("<f4") for name, shape in shapes.items()}
    for norm in ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"]:
        made[f"{norm}.weight"] = numpy.ones(HIDDEN, "<f4")
    return made


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small Llama with made-up weights and the demo model's vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(DEMO / name, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, body = {}, b""
    for name, matrix in weights().items():
        offsets = [len(body), len(body) + matrix.nbytes]
        header[name] = {"dtype": "F32", "shape": matrix.shape, "data_offsets": offsets}
        body += matrix.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    return folder


def convert(source, output, *arguments):
    run = run_offline("convert", source, output, *arguments)
    assert run.returncode == 0, run.stderr
    return output


@pytest.mark.parametrize("method", ["q8_0", "q5_k", "q4_k", "q3_k", "q2_k", "q4_0", "q5_1"])
def test_the_gguf_package_reads_the_weights(llama, tmp_path, method):
    path = convert(llama, tmp_path / "out.gguf", "--format", "gguf", "--quantization", method)
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("llama.block_count").contents() == 1
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == VOCABULARY
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    stored = tensors["blk.0.ffn_down.weight"]
    assert stored.tensor_type.name.lower() == method
    expected = weights()["model.layers.0.mlp.down_proj.weight"]
    actual = gguf.quants.dequantize(stored.data, stored.tensor_type)
    error = numpy.linalg.norm(actual - expected) / numpy.linalg.norm(expected)
    bits = int(method[1])
    assert error < 0.9 * 2.0 ** (1 - bits), f"{method} loses {error}"
    norm = tensors["output_norm.weight"]
    assert norm.tensor_type.name == "F32"
    numpy.testing.assert_array_equal(norm.data, numpy.ones(HIDDEN))


def test_a_gguf_file_is_served_as_its_source_is(llama, tmp_path):
    path = convert(llama, tmp_path / "out.gguf", "--format", "gguf", "--dtype", "float32")
    answers = []
    for model in [llama, path]:
        with serving(str(model), "--served-model-name", "m", "--dtype", "float32") as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="-")
            completion = client.completions.create(model="m", prompt=PROMPT, temperature=0, max_tokens=12)
            message = [{"role": "user", "content": "Who are you?"}]
            chat = client.chat.completions.create(model="m", messages=message, temperature=0, max_tokens=12)
            answers.append((completion.choices[0].text, chat.choices[0].message.content, chat.usage.prompt_tokens))
    assert answers[0] == answers[1]


def test_what_is_there_is_not_overwritten(llama, tmp_path):
    path = tmp_path / "out.gguf"
    path.write_text("mine")
    run = run_offline("convert", llama, path, "--format", "gguf")
    assert run.returncode == 1
    assert "is not overwritten" in run.stderr
    assert path.read_text() == "mine"


def test_a_family_without_a_layout_names_the_others(tmp_path):
    run = run_offline("convert", "demo", tmp_path / "out.gguf", "--format", "gguf")
    assert run.returncode == 1
    assert "models of type 'opt' have no layout there; supported: mistral, llama" in run.stderr
    assert list(tmp_path.iterdir()) == []
