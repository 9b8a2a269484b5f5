"""Ollama's API: bodies translated to OpenAI's, and answers translated back."""

import json
import math
from typing import Any

import msgspec
import pytest

from schemas.errors import BadRequest, EngineFailed
from schemas.models import Mode, ModelSpec
from services.gateway.apis.ollama.answers import (
    CompletionTranslation,
    shorten,
    translate_embed,
    translate_infill,
)
from services.gateway.apis.ollama.bodies import ChatBody, EmbedBody, GenerateBody
from services.gateway.apis.ollama.listing import model_details
from services.gateway.apis.ollama.requests import (
    chat_request,
    generate_path,
    generate_request,
    is_empty,
    is_unload,
    openai_messages,
)

CHAT, TEXT, INFILL = "/v1/chat/completions", "/v1/completions", "/infill"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


def chat(**fields: Any) -> ChatBody:
    return msgspec.json.decode(json.dumps({"model": "m", **fields}), type=ChatBody)


def generate(**fields: Any) -> GenerateBody:
    return msgspec.json.decode(json.dumps({"model": "m", **fields}), type=GenerateBody)


def plain(value: object) -> Any:
    """The value as JSON has it."""
    return json.loads(msgspec.json.encode(value))


NULLS = dict.fromkeys(("stream", "format", "options", "think", "keep_alive", "tools", "messages"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"stream": True, "stream_options": {"include_usage": True}}),
        (NULLS, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False, "keep_alive": "5m", "template": "x"}, {"stream": False}),
        ({"stream": False, "tools": []}, {"stream": False}),
        ({"stream": False, "tools": [TOOL]}, {"stream": False, "tools": [TOOL]}),
    ],
)
def test_a_chat_streams_unless_stream_is_false(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert plain(chat_request(chat(**given))) == {"model": "m", "messages": [], **expected}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": 5, "num_ctx": 9, "num_gpu": 1, "unknown": "option"}, {"max_tokens": 5}),
        ({"num_predict": 5, "temperature": 1}, {"max_tokens": 5, "temperature": 1.0}),
        ({"num_predict": -1, "seed": 3}, {"seed": 3}),
        ({"num_predict": -2}, {}),
        ({"num_predict": None, "stop": None}, {}),
        ({"temperature": 0, "seed": 0}, {"temperature": 0.0, "seed": 0}),
        ({"stop": "x"}, {"stop": "x"}),
        ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.1}, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 9}, {"repeat_penalty": 1.1, "repeat_last_n": 9}),
        ({"typical_p": 0.9, "num_keep": 4, "mirostat": 2}, {"typical_p": 0.9, "n_keep": 4, "mirostat": 2}),
    ],
)
def test_options_are_translated_by_name(options: dict[str, Any], expected: dict[str, Any]) -> None:
    body = plain(chat_request(chat(stream=False, options=options)))
    assert body == {"model": "m", "messages": [], "stream": False, **expected}


@pytest.mark.parametrize("options", [{"num_predict": "five"}, {"num_predict": 5.5}, {"stop": 3}, [], "x"])
def test_options_of_the_wrong_type_are_refused(options: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="options"):
        chat(options=options)


NAMED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("shape", "chat_fields", "text_fields"),
    [
        (None, {}, {}),
        ("", {}, {}),
        ("json", {"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        (SCHEMA, {"response_format": NAMED}, {"json_schema": SCHEMA}),
    ],
)
def test_a_format_is_a_response_format_or_for_text_a_json_schema(
    shape: Any, chat_fields: dict[str, Any], text_fields: dict[str, Any]
) -> None:
    chatted = plain(chat_request(chat(stream=False, format=shape)))
    assert chatted == {"model": "m", "messages": [], "stream": False, **chat_fields}
    raw = plain(generate_request(generate(prompt="p", raw=True, stream=False, format=shape), TEXT))
    assert raw == {"model": "m", "prompt": "p", "stream": False, **text_fields}


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="'yaml'"):
        chat_request(chat(format="yaml"))


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        (None, None),
    ],
)
def test_thinking_becomes_an_argument_of_the_template(think: Any, expected: dict[str, Any] | None) -> None:
    assert chat_request(chat(think=think)).get("chat_template_kwargs") == expected


def converted_messages(*messages: dict[str, Any]) -> Any:
    return plain(openai_messages(chat(messages=messages).messages or ()))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": "Hi"}, {"content": "Hi"}),
        ({"role": "assistant", "content": None}, {"content": ""}),
        (
            {"role": "assistant", "content": "4", "thinking": "2+2"},
            {"content": "4", "reasoning_content": "2+2"},
        ),
        ({"role": "user", "content": "Hi", "images": None, "tool_calls": None}, {"content": "Hi"}),
        ({"role": "tool", "content": "2"}, {"content": "2", "tool_call_id": "call_unknown"}),
    ],
)
def test_a_message_is_translated(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert converted_messages(message) == [{"role": message["role"], **expected}]


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("/9j/abc", "data:image/jpeg;base64,/9j/abc"),
        ("iVBOR", "data:image/png;base64,iVBOR"),
        ("UklGRx", "data:image/webp;base64,UklGRx"),
        ("R0lGODx", "data:image/gif;base64,R0lGODx"),
        ("data:image/png;base64,iVBOR", "data:image/png;base64,iVBOR"),
    ],
)
def test_images_become_parts(image: str, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    (message,) = converted_messages({"role": "user", "content": "What?", "images": [image]})
    assert message["content"] == [{"type": "text", "text": "What?"}, part]
    (message,) = converted_messages({"role": "user", "images": [image]})
    assert message["content"] == [part]


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"x": 1}}, **more}


def test_tool_calls_get_ids_and_results_the_ids_of_their_calls() -> None:
    converted = converted_messages(
        {"role": "assistant", "tool_calls": [call("f"), call("g"), call("f")]},
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of the first f", "tool_name": "f"},
        {"role": "tool", "content": "of the second f"},
        {"role": "assistant", "tool_calls": [call("f", id="mine"), call("f")]},
        {"role": "tool", "content": "by its id", "tool_name": "f", "tool_call_id": "mine"},
        {"role": "tool", "content": "the rest", "tool_name": "f"},
    )
    ids = [call["id"] for message in converted for call in message.get("tool_calls", ())]
    assert ids == ["call_0", "call_1", "call_2", "mine", "call_4"]
    results = [message["tool_call_id"] for message in converted if message["role"] == "tool"]
    assert results == ["call_1", "call_0", "call_2", "mine", "call_4"]
    first = converted[0]["tool_calls"][0]
    assert first["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert converted[1]["name"] == "g"


@pytest.mark.parametrize(
    ("fields", "mode", "path"),
    [
        ({"prompt": "p"}, Mode.CHAT, CHAT),
        ({"prompt": "p", "raw": True}, Mode.CHAT, TEXT),
        ({"prompt": "p"}, Mode.COMPLETION, TEXT),
        ({"prompt": "p", "suffix": "s"}, Mode.CHAT, INFILL),
        ({"prompt": "p", "suffix": ""}, Mode.CHAT, CHAT),
        # It is refused there, with the paths that it has.
        ({"prompt": "p"}, Mode.EMBEDDING, CHAT),
    ],
)
def test_a_prompt_goes_to_chat_text_or_infill(fields: dict[str, Any], mode: Mode, path: str) -> None:
    assert generate_path(generate(**fields), mode) == path


def test_a_prompt_is_translated_for_each_path() -> None:
    prompt = generate(prompt="p", system="s", suffix="e", stream=False, options={"num_predict": 2})
    assert plain(generate_request(prompt, CHAT)) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
        "stream": False,
        "max_tokens": 2,
    }
    assert plain(generate_request(prompt, TEXT)) == {
        "model": "m",
        "prompt": "p",
        "stream": False,
        "max_tokens": 2,
    }
    infill = {"model": "m", "input_prefix": "p", "input_suffix": "e", "max_tokens": 2}
    assert plain(generate_request(prompt, INFILL)) == infill


@pytest.mark.parametrize(
    ("body", "empty", "unload"),
    [
        (chat(), True, False),
        (chat(messages=[], keep_alive=0), True, True),
        (chat(messages=[{"role": "user", "content": ""}]), False, False),
        (generate(), True, False),
        (generate(prompt="", keep_alive="0s"), True, True),
        (generate(prompt="", keep_alive="10m"), True, False),
        (generate(prompt="", keep_alive=-1), True, False),
        (generate(suffix="x"), False, False),
        (generate(images=["iVBOR"]), False, False),
    ],
)
def test_an_empty_request_loads_or_unloads_the_model(
    body: ChatBody | GenerateBody, empty: bool, unload: bool
) -> None:
    assert (is_empty(body), is_unload(body)) == (empty, unload)


def lines(*chunks: dict[str, Any], chat: bool = True) -> list[dict[str, Any]]:
    translation = CompletionTranslation("m", chat=chat)
    out = [translation.line(json.dumps(chunk).encode()) for chunk in chunks]
    out += [translation.line(b"[DONE]"), translation.last()]
    return [json.loads(line) for line in b"".join(out).splitlines()]


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


LENGTH = {"choices": [{"delta": {}, "finish_reason": "length"}]}
COUNTS = {
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "timings": {"prompt_ms": 0.001, "predicted_ms": 0.002},
}


def test_a_stream_is_lines_and_the_last_has_the_counts() -> None:
    first = delta(role="assistant", content=None)
    received = lines(first, delta(reasoning_content="Hm."), delta(content="Hi"), LENGTH, COUNTS)
    assert [line["message"]["content"] for line in received] == ["", "Hi", ""]
    assert received[0]["message"]["thinking"] == "Hm."
    assert [line["done"] for line in received] == [False, False, True]
    last = received[-1]
    assert last["done_reason"] == "length"
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (1000, 2000)
    assert last["total_duration"] == last["load_duration"] + 3000
    assert all(line["model"] == "m" and line["created_at"].endswith("Z") for line in received)


def test_a_stream_of_text_is_a_response() -> None:
    received = lines({"choices": [{"text": "Hi", "finish_reason": None}]}, COUNTS, chat=False)
    assert [line["response"] for line in received] == ["Hi", ""]
    assert "message" not in received[0]


@pytest.mark.parametrize(
    ("completion", "chat", "expected"),
    [
        ({"message": {"content": "Hi"}}, True, {"message": {"role": "assistant", "content": "Hi"}}),
        (
            {"message": {"content": "Hi", "reasoning_content": "Hm."}},
            False,
            {"response": "Hi", "thinking": "Hm."},
        ),
        ({"text": "Hi"}, False, {"response": "Hi"}),
        ({"message": {"content": None}}, False, {"response": ""}),
    ],
)
def test_a_whole_answer_is_one_object(
    completion: dict[str, Any], chat: bool, expected: dict[str, Any]
) -> None:
    body = {**COUNTS, "choices": [{"index": 0, "finish_reason": "stop", **completion}]}
    answer = json.loads(CompletionTranslation("m", chat=chat).whole(json.dumps(body).encode()))
    assert expected.items() <= answer.items()
    assert (answer["done"], answer["done_reason"], answer["eval_count"]) == (True, "stop", 2)


def part(arguments: str, name: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function, **more}


CALLED = [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]


def test_tool_calls_come_whole_before_the_last_line() -> None:
    pieces = [delta(tool_calls=[part('{"x"', "f", id="a")]), delta(tool_calls=[part(":1}")])]
    called, last = lines(*pieces)
    assert (called["message"]["tool_calls"], called["done"]) == (CALLED, False)
    assert ("tool_calls" in last["message"], last["done"]) == (False, True)
    message = {"content": "", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    whole = json.loads(CompletionTranslation("m", chat=True).whole(json.dumps(body).encode()))
    assert whole["message"]["tool_calls"] == CALLED


def test_several_tool_calls_are_ordered_by_index_and_may_have_no_arguments() -> None:
    called, _ = lines(delta(tool_calls=[part("", "g", index=1), part("{}", "f")]))
    assert [call["function"]["name"] for call in called["message"]["tool_calls"]] == ["f", "g"]
    assert [call["function"]["arguments"] for call in called["message"]["tool_calls"]] == [{}, {}]


def test_a_tool_call_that_is_cut_is_left_out_and_an_invalid_one_is_an_error() -> None:
    cut = delta(tool_calls=[part('{"x"', "f")])
    (last,) = lines(cut, LENGTH)
    assert last["done_reason"] == "length"
    with pytest.raises(EngineFailed, match="called f"):
        lines(cut)


def test_an_error_in_the_middle_is_the_last_line() -> None:
    received = lines(delta(content="Hi"), {"error": {"message": "no"}}, delta(content="more"))
    assert received[1:] == [{"error": "no"}]


@pytest.mark.parametrize("stop_type", ["limit", "eos"])
def test_an_infill_is_one_object_or_lines(stop_type: str) -> None:
    body = json.dumps(
        {"content": "x", "stop_type": stop_type, "tokens_evaluated": 3, "tokens_predicted": 2}
    ).encode()
    whole = json.loads(translate_infill(CompletionTranslation("m", chat=False), body, lines=False))
    assert (whole["response"], whole["eval_count"]) == ("x", 2)
    assert whole["done_reason"] == ("length" if stop_type == "limit" else "stop")
    text, last = translate_infill(CompletionTranslation("m", chat=False), body, lines=True).splitlines()
    assert (json.loads(text)["response"], json.loads(last)["done"]) == ("x", True)


def test_vectors_come_in_the_order_of_their_texts() -> None:
    data = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 4}}).encode()
    answer = json.loads(translate_embed(EmbedBody(model="m", input=("a", "b")), body, 7))
    assert answer["embeddings"] == [[1.0, 0.0], [0.0, 1.0]]
    assert (answer["prompt_eval_count"], answer["total_duration"]) == (4, 7)


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [(None, [3.0, 4.0, 12.0]), (9, [3.0, 4.0, 12.0]), (2, [0.6, 0.8]), (1, [1.0]), (-1, [3.0, 4.0, 12.0])],
)
def test_a_shortened_vector_is_normalised(dimensions: int | None, expected: list[float]) -> None:
    assert shorten([3.0, 4.0, 12.0], dimensions) == pytest.approx(expected)
    assert math.hypot(*shorten([0.0, 0.0, 1.0], 2)) == 0


@pytest.mark.parametrize(
    ("fields", "capabilities"),
    [
        ({}, ["completion"]),
        ({"mmproj": "p.gguf"}, ["completion", "vision"]),
        ({"mode": Mode.EMBEDDING}, ["embedding"]),
        ({"mode": Mode.RERANK}, []),
    ],
)
def test_the_capabilities_of_a_model(fields: dict[str, Any], capabilities: list[str]) -> None:
    assert model_details(ModelSpec(name="m", path="m.gguf", **fields))["capabilities"] == capabilities
