"""The server's answers byte by byte: shapes, errors, streams, keys."""

import contextlib
import json

import pytest

from support import CONTINUATIONS, WORLD_SERIES_ANSWER, WORLD_SERIES_QUESTION, serving

FRANCE = "The capital of France is"
GREEDY = {"model": "demo", "prompt": FRANCE, "temperature": 0, "max_tokens": 32}
CHAT = {"model": "demo", "messages": WORLD_SERIES_QUESTION, "temperature": 0}


def check_error(answer, status, type_, param=None, mentions=""):
    assert answer.status == status, answer.body
    error = answer.json["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == status
    assert error["type"] == type_
    assert error["param"] == param
    assert mentions in error["message"]


def test_health_has_an_empty_body(server):
    answer = server.send("GET", "/health")
    assert (answer.status, answer.body) == (200, b"")


def test_version_is_a_string(server):
    answer = server.send("GET", "/version")
    assert answer.status == 200
    assert isinstance(answer.json["version"], str)


def test_model_card(server):
    card = server.send("GET", "/v1/models").json["data"][0]
    assert card["id"] == "demo"
    assert card["max_model_len"] == 1024
    assert card["permission"][0]["object"] == "model_permission"


def test_completion_body(server):
    answer = server.send("POST", "/v1/completions", GREEDY)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == "demo"
    assert body["choices"][0]["text"] == CONTINUATIONS[FRANCE]
    assert body["choices"][0]["logprobs"] is None


def test_completion_stream_frames(server):
    answer = server.send("POST", "/v1/completions", {**GREEDY, "stream": True})
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, done = answer.events
    assert done == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == CONTINUATIONS[FRANCE]
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_chat_stream_frames(server):
    answer = server.send("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    *frames, done = answer.events
    assert done == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == WORLD_SERIES_ANSWER


def test_two_requests_share_a_connection(server):
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(GREEDY), headers)
            body = json.loads(connection.getresponse().read())
            assert body["choices"][0]["text"] == CONTINUATIONS[FRANCE]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_wrong_model_name(server, path):
    request = {**(CHAT if "chat" in path else GREEDY), "model": "gpt-9"}
    answer = server.send("POST", path, request)
    message = "The model `gpt-9` does not exist."
    check_error(answer, 404, "NotFoundError", param="model", mentions=message)


@pytest.mark.parametrize(
    ("field", "value", "type_", "param"),
    [
        ("temperature", -1, "BadRequestError", "temperature"),
        ("top_p", 2, "BadRequestError", "top_p"),
        ("max_tokens", 0, "BadRequestError", "max_tokens"),
        ("max_tokens", "abc", "Bad Request", "body.max_tokens"),
        ("max_tokens", 5000, "BadRequestError", "max_tokens"),
        ("n", 0, "BadRequestError", None),
    ],
)
def test_a_bad_parameter(server, field, value, type_, param):
    answer = server.send("POST", "/v1/completions", {**GREEDY, field: value})
    check_error(answer, 400, type_, param=param, mentions=field)


@pytest.mark.parametrize(
    ("body", "param"),
    [('{"model": "demo", ', "body.18"), ("[1, 2]", "body"), ("", "body")],
)
def test_a_malformed_body(server, body, param):
    answer = server.send("POST", "/v1/completions", body)
    check_error(answer, 400, "Bad Request", param=param, mentions="1 validation error")


def test_a_body_that_is_not_json_by_its_content_type(server):
    answer = server.send("POST", "/v1/completions", GREEDY, {"Content-Type": "text/plain"})
    check_error(answer, 400, "Bad Request", mentions="Only 'application/json' is allowed")


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/v1/nothing", 404, "Not Found"),
        ("GET", "/v1/models/demo", 404, "Not Found"),
        ("GET", "/v1/completions", 405, "Method Not Allowed"),
    ],
)
def test_an_unknown_path_or_method(server, method, path, status, detail):
    answer = server.send(method, path)
    assert (answer.status, answer.json) == (status, {"detail": detail})


def test_a_client_that_goes_away_leaves_the_server_well(server):
    for _ in range(4):
        with contextlib.closing(server.connect()) as connection:
            request = {**GREEDY, "max_tokens": 900, "ignore_eos": True, "stream": True}
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(request), headers)
            connection.getresponse().read(64)
    answer = server.send("POST", "/v1/completions", GREEDY)
    assert answer.json["choices"][0]["text"] == CONTINUATIONS[FRANCE]


@pytest.fixture(scope="module", params=["flag", "variable"])
def guarded_server(request):
    if request.param == "flag":
        with serving("demo", "--api-key", "secret") as running:
            yield running
    else:
        with serving("demo", VLLM_API_KEY="secret") as running:
            yield running


@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Basic secret"])
def test_without_the_key_nothing_is_served(guarded_server, header):
    headers = {} if header is None else {"Authorization": header}
    answer = guarded_server.send("POST", "/v1/completions", GREEDY, headers)
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})


def test_with_the_key_everything_is_served(guarded_server):
    headers = {"Authorization": "Bearer secret"}
    answer = guarded_server.send("POST", "/v1/completions", GREEDY, headers)
    assert answer.json["choices"][0]["text"] == CONTINUATIONS[FRANCE]


def test_health_needs_no_key(guarded_server):
    assert guarded_server.send("GET", "/health").status == 200


def test_scores_are_shares_among_the_labels(server):
    def token(text):
        body = {"prompt": text, "add_special_tokens": False}
        return server.send("POST", "/tokenize", body).json["tokens"][0]

    labels = [token(" Paris"), token(" Berlin")]
    body = {"query": "The capital of", "items": [" France is", " Germany is"], "label_token_ids": labels}
    answer = server.send("POST", "/generative_scoring", body)
    assert answer.status == 200, answer.body
    france, germany = (item["score"] for item in answer.json["data"])
    assert france > 0.5 > germany
    swapped = {**body, "label_token_ids": labels[::-1]}
    data = server.send("POST", "/generative_scoring", swapped).json["data"]
    assert abs(data[0]["score"] + france - 1) < 1e-5


def test_a_batch_answers_each_conversation(server):
    def conversation(country):
        return [{"role": "user", "content": f"What is the capital of {country}?"}]

    body = {"temperature": 0, "messages": [conversation("France"), conversation("Germany")]}
    choices = server.send("POST", "/v1/chat/completions/batch", body).json["choices"]
    assert [choice["message"]["content"] for choice in choices] == [
        "The capital of France is Paris.",
        "The capital of Germany is Berlin.",
    ]
