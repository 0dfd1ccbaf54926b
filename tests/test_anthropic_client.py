"""The `anthropic` package against the server: messages, streams, tools, counting, errors."""

import json

import anthropic
import pytest

from support import WORLD_SERIES_ANSWER, serving

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
WEATHER = {
    "name": "get_weather",
    "description": "Current weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def anthropic_client():
    flags = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--api-key", "secret")
    with serving("demo", *flags) as running:
        # The package sends `x-api-key` for its key; the server reads bearer tokens only.
        yield anthropic.Anthropic(
            auth_token="secret",
            base_url=f"http://127.0.0.1:{running.port}",
            max_retries=0,
            timeout=60,
        )


@pytest.fixture
def ask(anthropic_client):
    def ask(messages=QUESTION, temperature=0, **options):
        # The package has no sampling arguments any more; the protocol still has the fields.
        sampling = {"temperature": temperature, **options.pop("sampling", {})}
        options = {"model": "demo", "max_tokens": 32, **options}
        return anthropic_client.messages.create(messages=messages, extra_body=sampling, **options)

    return ask


def test_a_message_has_one_text_block(ask):
    message = ask()
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == ANSWER
    assert (message.role, message.type, message.model) == ("assistant", "message", "demo")
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_a_message_is_cut_at_max_tokens(ask):
    message = ask(max_tokens=2)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 2
    assert ANSWER.startswith(message.content[0].text)


def test_a_message_stops_before_the_stop_sequence(ask):
    message = ask(stop_sequences=[" Paris"])
    assert message.content[0].text == "The capital of France is"
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " Paris")


@pytest.mark.parametrize(
    "system",
    ["You are a helpful assistant.", [{"type": "text", "text": "You are a helpful assistant."}]],
)
def test_system_text_counts_as_input(ask, system):
    message = ask([{"role": "user", "content": "Who won the world series in 2020?"}], system=system)
    assert message.content[0].text == WORLD_SERIES_ANSWER


def test_content_may_be_blocks(ask):
    blocks = [{"type": "text", "text": QUESTION[0]["content"]}]
    assert ask([{"role": "user", "content": blocks}]).content[0].text == ANSWER


def test_a_conversation_may_have_several_turns(ask):
    turns = [*QUESTION, {"role": "assistant", "content": ANSWER}, *QUESTION]
    assert ask(turns).usage.input_tokens > ask().usage.input_tokens


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"top_k": 1}, {"top_p": 0.5}])
def test_sampling_fields_are_followed(ask, sampling):
    assert ask(sampling=sampling).usage.output_tokens > 0


def test_a_stream_of_texts(anthropic_client):
    options = {"model": "demo", "max_tokens": 32, "messages": QUESTION}
    with anthropic_client.messages.stream(**options, extra_body={"temperature": 0}) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == final.content[0].text == ANSWER
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def test_a_stream_of_events_is_in_order(ask):
    kinds = [event.type for event in ask(stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_stream_left_early_leaves_the_server_well(ask):
    with ask(stream=True) as stream:
        next(iter(stream))
    assert ask().content[0].text == ANSWER


def test_tools_may_be_offered(ask):
    message = ask(tools=[WEATHER], tool_choice={"type": "auto"})
    for block in message.content:
        assert block.type in ("text", "tool_use")
    assert ask(tools=[WEATHER]).usage.input_tokens == message.usage.input_tokens


def test_a_tool_result_goes_back_to_the_model(ask):
    call = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": json.dumps({"sky": "blue"})}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    assert ask(turns, tools=[WEATHER]).usage.input_tokens > ask().usage.input_tokens


def test_counting_agrees_with_a_message(anthropic_client, ask):
    counted = anthropic_client.messages.count_tokens(model="demo", messages=QUESTION)
    assert counted.input_tokens == ask().usage.input_tokens


def test_counting_includes_the_system_text(anthropic_client):
    def count(**options):
        options = {"model": "demo", "messages": QUESTION, **options}
        return anthropic_client.messages.count_tokens(**options).input_tokens

    assert count(system="You are a helpful assistant.") > count()


def test_an_unknown_model_is_not_found(ask):
    with pytest.raises(anthropic.NotFoundError, match="The model `claude` does not exist"):
        ask(model="claude")


def test_a_bad_temperature_is_a_bad_request(ask):
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        ask(temperature=-1)


def test_max_tokens_must_be_positive(ask):
    with pytest.raises(anthropic.BadRequestError, match="max_tokens must be positive"):
        ask(max_tokens=0)


def test_a_wrong_key_is_refused(anthropic_client):
    stranger = anthropic_client.with_options(auth_token="wrong")
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="demo", max_tokens=1, messages=QUESTION)
