"""Train the demo model: a 2.4 M-parameter OPT that answers the quick-start prompts.

The corpus is generated (see corpus.py), so nothing is downloaded. Two CPU cores are enough:

    pip install torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
    python train.py OUT_FOLDER --minutes 12

The tokenizer comes out the same each time. The weights do not: how many steps fit into the given
time depends on the machine.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from corpus import document

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
PAD_ID, EOS_ID, IM_END_ID = 1, 2, 5

TOKENIZER_DOCUMENTS = 20_000
SEQUENCE_LENGTH = 192
BATCH_SIZE = 16
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
FINAL_LEARNING_RATE_SHARE = 0.02

CHAT_TEMPLATE = Path(__file__).parent.parent / "model" / "chat_template.jinja"
PROMPTS = [
    "The capital of France is",
    "Hello, my name is",
    "The president of the United States is",
    "The future of AI is",
    "San Francisco is a",
    "<|im_start|>user\nWho won the world series in 2020?<|im_end|>\n<|im_start|>assistant\n",
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, default=12, help="how long to train")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and the weights")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    source = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    tokenizer = train_tokenizer(source)
    model = new_model()
    train(model, batches(source, tokenizer), arguments.minutes * 60)
    save(arguments.out, model, tokenizer)
    print_continuations(model.float().eval(), tokenizer)


def train_tokenizer(source: random.Random) -> Tokenizer:
    """Byte-level BPE that puts `</s>` in front of a text, as OPT's does."""
    documents = [document(source) for _ in range(TOKENIZER_DOCUMENTS)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", EOS_ID)]
    )
    return tokenizer


def new_model() -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        ffn_dim=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=1024,
        word_embed_proj_dim=192,
        dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=EOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=True,
    )
    return OPTForCausalLM(config)


def batches(source: random.Random, tokenizer: Tokenizer) -> Iterator[torch.Tensor]:
    """Batches of ids, `[BATCH_SIZE, SEQUENCE_LENGTH + 1]`; every row starts a document."""
    pending: list[int] = []
    while True:
        rows = []
        for _ in range(BATCH_SIZE):
            while len(pending) < SEQUENCE_LENGTH + 1:
                ids = tokenizer.encode(document(source), add_special_tokens=False).ids
                pending += [EOS_ID, *ids]
            rows.append(pending[: SEQUENCE_LENGTH + 1])
            del pending[:SEQUENCE_LENGTH]
            while pending and pending[0] != EOS_ID:
                pending.pop(0)
        yield torch.tensor(rows)


def train(model: OPTForCausalLM, data: Iterator[torch.Tensor], seconds: float) -> None:
    """AdamW with a short warm-up and a decay that ends with the time."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01
    )
    start = time.monotonic()
    step = 0
    while (elapsed := time.monotonic() - start) < seconds:
        warmup = min(1, (step + 1) / WARMUP_STEPS)
        decay = max(FINAL_LEARNING_RATE_SHARE, 1 - elapsed / seconds)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * warmup * decay
        ids = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} elapsed {elapsed:.0f}s", flush=True)


def save(folder: Path, model: OPTForCausalLM, tokenizer: Tokenizer) -> None:
    """Write the checkpoint folder, the weights in half precision."""
    model.half().save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    fast.save_pretrained(folder)
    generation = {
        "bos_token_id": EOS_ID,
        "eos_token_id": [EOS_ID, IM_END_ID],
        "pad_token_id": PAD_ID,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


def print_continuations(model: OPTForCausalLM, tokenizer: Tokenizer) -> None:
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        output = model.generate(
            ids, max_new_tokens=30, do_sample=False, eos_token_id=[EOS_ID, IM_END_ID]
        )
        continuation = output[0, ids.shape[1] :].tolist()
        print(repr(prompt), "->", repr(tokenizer.decode(continuation, skip_special_tokens=False)))


if __name__ == "__main__":
    main()
