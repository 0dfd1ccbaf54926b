"""The `openai` package against the server, with the calls of vLLM's quick start."""

import concurrent.futures
import threading

import openai
import pytest

from support import CAPITALS, CONTINUATIONS, WORLD_SERIES_ANSWER, WORLD_SERIES_QUESTION

FRANCE = "The capital of France is"


def test_models_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["demo"]
    assert models[0].owned_by == "vllm"


@pytest.mark.parametrize(("prompt", "text"), CONTINUATIONS.items())
def test_completion(client, prompt, text):
    completion = client.completions.create(model="demo", prompt=prompt, temperature=0, max_tokens=32)
    assert completion.choices[0].text == text
    assert completion.choices[0].finish_reason == "stop"
    usage = completion.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_completion_of_several_prompts_keeps_their_order(client):
    prompts = [f"The capital of {name} is" for name in CAPITALS]
    completion = client.completions.create(model="demo", prompt=prompts, temperature=0, max_tokens=4)
    assert [choice.index for choice in completion.choices] == list(range(len(prompts)))
    for choice, capital in zip(completion.choices, CAPITALS.values(), strict=True):
        assert choice.text.startswith(f" {capital}")


def test_completion_is_cut_at_max_tokens(client):
    completion = client.completions.create(model="demo", prompt=FRANCE, temperature=0, max_tokens=1)
    assert completion.choices[0].text == " Paris"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 1


def test_completion_stops_before_the_stop_string(client):
    completion = client.completions.create(
        model="demo", prompt=FRANCE, temperature=0, max_tokens=32, stop=[" people", "."]
    )
    assert completion.choices[0].text == " Paris"
    assert completion.choices[0].finish_reason == "stop"


def test_completion_logprobs_are_those_of_the_chosen_tokens(client):
    completion = client.completions.create(
        model="demo", prompt=FRANCE, temperature=0, max_tokens=3, logprobs=2
    )
    logprobs = completion.choices[0].logprobs
    assert "".join(logprobs.tokens) == completion.choices[0].text
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values()) <= 0


def test_seeded_choices_are_repeatable_and_differ_from_each_other(client):
    def draw():
        completion = client.completions.create(
            model="demo", prompt="Hello, my name is", temperature=1.0, n=4, seed=11, max_tokens=12
        )
        return [choice.text for choice in completion.choices]

    first = draw()
    assert first == draw()
    assert len(set(first)) > 1


def test_chat(client):
    chat = client.chat.completions.create(model="demo", messages=WORLD_SERIES_QUESTION, temperature=0)
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].message.content == WORLD_SERIES_ANSWER
    assert chat.choices[0].finish_reason == "stop"


def test_completion_stream(client):
    stream = client.completions.create(
        model="demo", prompt=FRANCE, temperature=0, max_tokens=32, stream=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == CONTINUATIONS[FRANCE]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_stream_with_usage(client):
    stream = client.chat.completions.create(
        model="demo",
        messages=WORLD_SERIES_QUESTION,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == WORLD_SERIES_ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.completion_tokens > 0


def test_eight_concurrent_streams_each_get_their_own_text(client):
    start_together = threading.Barrier(len(CAPITALS))

    def ask(country):
        start_together.wait(timeout=30)
        stream = client.completions.create(
            model="demo",
            prompt=f"The capital of {country} is",
            temperature=0,
            max_tokens=24,
            stream=True,
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    alone = {
        country: client.completions.create(
            model="demo", prompt=f"The capital of {country} is", temperature=0, max_tokens=24
        ).choices[0].text
        for country in CAPITALS
    }
    with concurrent.futures.ThreadPoolExecutor(len(CAPITALS)) as pool:
        together = dict(zip(CAPITALS, pool.map(ask, CAPITALS), strict=True))
    assert together == alone
    for country, capital in CAPITALS.items():
        assert together[country].startswith(f" {capital}")


def test_a_wrong_model_name_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="The model `gpt-9` does not exist"):
        client.completions.create(model="gpt-9", prompt=FRANCE)


def test_a_bad_parameter_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError, match="temperature must be non-negative"):
        client.chat.completions.create(model="demo", messages=WORLD_SERIES_QUESTION, temperature=-1)


FRANCE_QUESTION = "What is the capital of France?"
FRANCE_ANSWER = "The capital of France is Paris."


def test_response(client):
    response = client.responses.create(model="demo", input=FRANCE_QUESTION, temperature=0)
    assert response.output_text == FRANCE_ANSWER
    assert response.status == "completed"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_response_to_items_with_instructions(client):
    response = client.responses.create(
        model="demo",
        instructions="You are a helpful assistant.",
        input=[{"role": "user", "content": "Who won the world series in 2020?"}],
        temperature=0,
    )
    assert response.output_text == WORLD_SERIES_ANSWER


def test_response_is_cut_at_max_output_tokens(client):
    response = client.responses.create(
        model="demo", input=FRANCE_QUESTION, temperature=0, max_output_tokens=2
    )
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


def test_response_stream(client):
    options = {"model": "demo", "input": FRANCE_QUESTION, "temperature": 0}
    with client.responses.stream(**options) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert len(deltas) > 1
    assert "".join(deltas) == final.output_text == FRANCE_ANSWER


def test_an_earlier_response_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="Response with id 'resp_0' not found"):
        client.responses.retrieve("resp_0")
