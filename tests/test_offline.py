"""`vllm-offline` as a user sees it: standard output, standard error, exit code, files."""

import json
import subprocess

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


def only_text(row):
    """The text of a row that has one sample."""
    (output,) = row["outputs"]
    return output["text"]


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
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert [only_text(row) for row in rows] == list(CONTINUATIONS.values())
    assert {row["outputs"][0]["finish_reason"] for row in rows} == {"stop"}


def test_jsonl_with_prompts_and_messages(tmp_path):
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": FRANCE}, {"messages": support.WORLD_SERIES_QUESTION}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    succeeded(run_offline("--input", data, "--output", answers, *GREEDY))
    texts = [only_text(row) for row in results(answers)]
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
        assert only_text(row).startswith(f" {support.CAPITALS[name]}"), row


def test_the_same_seed_draws_the_same_texts(tmp_path):
    def draw(name, seed):
        answers = tmp_path / name
        flags = ("--temperature", "0.8", "--top-p", "0.95", "--seed", seed, "--n", "3")
        succeeded(run_offline("--output", answers, *flags))
        return answers.read_text(encoding="utf-8")

    first = draw("a.jsonl", 7)
    assert draw("b.jsonl", 7) == first
    assert draw("c.jsonl", 8) != first


def test_stop_string_ends_the_text(tmp_path):
    answers = tmp_path / "answers.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(FRANCE + "\n", encoding="utf-8")
    succeeded(run_offline("--input", prompts, "--output", answers, "--stop", ".", *GREEDY))
    (row,) = results(answers)
    assert only_text(row) == " Paris"


def test_a_missing_input_file_is_named(tmp_path):
    missing = tmp_path / "nowhere.txt"
    failed(run_offline("--input", missing), str(missing))


def test_a_missing_model_folder_is_named(tmp_path):
    missing = tmp_path / "no-model"
    failed(run_offline("--model", missing), str(missing))


def test_a_damaged_line_becomes_an_error_line_and_the_job_goes_on(tmp_path):
    data = tmp_path / "data.jsonl"
    lines = ['{"prompt": "The capital of France is"}', '{"prompt": ', '{"prompt": "The future of AI is"}']
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    failed(run_offline("--input", data, "--output", answers, *GREEDY), "1 of 3 rows failed")
    first, damaged, last = results(answers)
    assert "data.jsonl:2" in damaged["error"] and "outputs" not in damaged
    assert only_text(first) == CONTINUATIONS[FRANCE]
    assert only_text(last) == CONTINUATIONS["The future of AI is"]


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


def test_recorded_decisions_can_be_replayed(tmp_path):
    steps = tmp_path / "steps.jsonl"
    succeeded(run_offline("--record-steps", steps))
    replay = [support.program("xtask"), "replay", str(steps)]
    assert "no difference" in subprocess.run(replay, capture_output=True, text=True).stderr
    text = steps.read_text(encoding="utf-8")
    steps.write_text(text.replace('"num_tokens":1,', '"num_tokens":2,', 1), encoding="utf-8")
    changed = subprocess.run(replay, capture_output=True, text=True)
    assert changed.returncode == 1 and "num_tokens was 2 and is now 1" in changed.stderr


def test_help_names_the_flags():
    run = succeeded(run_offline("--help"))
    for flag in ("--model", "--input", "--output", "--temperature", "--top-p", "--max-tokens",
                 "--seed", "--n", "--stop", "--device"):
        assert flag in run.stdout
