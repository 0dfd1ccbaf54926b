"""`vllm-offline` as a user sees it: standard output, standard error, exit code, files."""

import json

import pytest

import support
from support import CONTINUATIONS, run_offline

GREEDY = ("--temperature", "0", "--max-tokens", "32")
FRANCE = "The capital of France is"


def succeeded(run):
    assert run.returncode == 0, run.stderr
    return run


def failed(run, *mentions):
    """Checks that the program refused with a message for people that has these words."""
    assert run.returncode not in (0, 101), f"exit code {run.returncode}\n{run.stderr}"
    assert "panicked" not in run.stderr
    for mention in mentions:
        assert mention in run.stderr, run.stderr


def results(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_arguments_completes_the_quick_start_prompts():
    run = succeeded(run_offline())
    for prompt in CONTINUATIONS:
        assert prompt in run.stdout
    assert "demo" in run.stderr and "--model" in run.stderr, run.stderr


def test_greedy_texts_are_the_known_ones():
    run = succeeded(run_offline(*GREEDY))
    for prompt, text in CONTINUATIONS.items():
        assert prompt in run.stdout
        assert text.strip() in run.stdout


def test_nothing_but_results_goes_to_standard_output_and_no_progress_bar_to_a_pipe():
    run = succeeded(run_offline(*GREEDY))
    assert "--model" not in run.stdout
    assert "\r" not in run.stderr and "\x1b" not in run.stderr, repr(run.stderr)


def test_one_prompt_a_line(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in CONTINUATIONS), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    succeeded(run_offline("--input", prompts, "--output", answers, *GREEDY))
    rows = results(answers)
    assert [row["prompt"] for row in rows] == list(CONTINUATIONS)
    assert [row["text"] for row in rows] == list(CONTINUATIONS.values())
    assert {row["finish_reason"] for row in rows} == {"stop"}


def test_jsonl_with_prompts_and_messages(tmp_path):
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": FRANCE}, {"messages": support.WORLD_SERIES_QUESTION}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    succeeded(run_offline("--input", data, "--output", answers, *GREEDY))
    texts = [row["text"] for row in results(answers)]
    assert texts == [CONTINUATIONS[FRANCE], support.WORLD_SERIES_ANSWER]


def test_a_batch_larger_than_the_running_set_keeps_its_order(tmp_path):
    names = list(support.CAPITALS) * 40
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"The capital of {name} is\n" for name in names), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    succeeded(run_offline("--input", prompts, "--output", answers, "--temperature", "0", "--max-tokens", "4"))
    rows = results(answers)
    assert len(rows) == len(names)
    for name, row in zip(names, rows, strict=True):
        assert row["prompt"] == f"The capital of {name} is"
        assert row["text"].startswith(f" {support.CAPITALS[name]}"), row


def test_the_same_seed_draws_the_same_texts(tmp_path):
    def draw(name, seed):
        answers = tmp_path / name
        flags = ("--temperature", "0.8", "--top-p", "0.95", "--seed", seed, "--n", "3")
        succeeded(run_offline("--output", answers, *flags))
        return answers.read_text(encoding="utf-8")

    assert draw("a.jsonl", 7) == draw("b.jsonl", 7)
    assert draw("c.jsonl", 8) != draw("d.jsonl", 7)


def test_stop_string_ends_the_text(tmp_path):
    answers = tmp_path / "answers.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(FRANCE + "\n", encoding="utf-8")
    succeeded(run_offline("--input", prompts, "--output", answers, "--stop", ".", *GREEDY))
    assert results(answers)[0]["text"] == " Paris"


def test_a_missing_input_file_is_named(tmp_path):
    missing = tmp_path / "nowhere.txt"
    failed(run_offline("--input", missing), str(missing))


def test_a_missing_model_folder_is_named(tmp_path):
    missing = tmp_path / "no-model"
    failed(run_offline("--model", missing), str(missing))


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "The capital of France is"}\n{"prompt": \n', encoding="utf-8")
    failed(run_offline("--input", data, *GREEDY), "2")


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (("--temperature", "-1"), "temperature"),
        (("--top-p", "1.5"), "top_p"),
        (("--max-tokens", "0"), "max_tokens"),
        (("--max-tokens", "many"), "--max-tokens"),
        (("--device", "abacus"), "abacus"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_a_bad_flag_is_refused_by_name(arguments, mention):
    failed(run_offline(*arguments), mention)


def test_help_names_the_flags():
    run = succeeded(run_offline("--help"))
    for flag in ("--model", "--input", "--output", "--temperature", "--top-p", "--max-tokens",
                 "--seed", "--n", "--stop", "--device"):
        assert flag in run.stdout
