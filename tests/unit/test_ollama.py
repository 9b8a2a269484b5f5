"""Ollama's words and ours."""

import json
from typing import Any

import msgspec
import pytest

from services.gateway.apis.ollama.answers import Translation
from services.gateway.apis.ollama.requests import Chat, Generate, chat_body, generate_body


def asked(**fields: Any) -> dict[str, Any]:
    return chat_body(msgspec.convert({"model": "m", **fields}, Chat))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False, "options": {"num_predict": 5, "num_ctx": 9}}, {"stream": False, "max_tokens": 5}),
        ({"stream": False, "options": {"num_predict": -1, "seed": 3}}, {"stream": False, "seed": 3}),
        ({"stream": False, "format": "json"}, {"stream": False, "response_format": {"type": "json_object"}}),
        (
            {"stream": False, "think": False},
            {"stream": False, "chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_options_have_their_names_here(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert asked(**given) == {"model": "m", "messages": [], **expected}


def test_a_schema_is_a_response_format() -> None:
    schema = {"type": "object"}
    shape = asked(format=schema)["response_format"]
    assert shape == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_pictures_and_tools_are_said_our_way() -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    messages = asked(
        messages=[
            {"role": "user", "content": "What?", "images": ["/9j/abc", "iVBOR"]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_name": "f"},
        ]
    )["messages"]
    kinds = [part["image_url"]["url"].split(";")[0] for part in messages[0]["content"][1:]]
    assert kinds == ["data:image/jpeg", "data:image/png"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert messages[2]["tool_call_id"] == "f"


def test_raw_goes_to_the_text_path() -> None:
    body = generate_body(Generate(model="m", prompt="p", raw=True, stream=False))
    assert body == {"model": "m", "prompt": "p", "stream": False}
    turns = generate_body(Generate(model="m", prompt="p", system="s"))["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user"]


def lines(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    translation = Translation("m", chat=True)
    out = [translation.line(json.dumps(chunk).encode()) for chunk in chunks] + [translation.last()]
    return [json.loads(line) for line in out if line]


def test_a_stream_is_lines_and_the_last_has_the_counts() -> None:
    said = lines(
        [
            {"choices": [{"delta": {"role": "assistant", "content": None}}]},
            {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
            {"choices": [{"delta": {"content": "Hi"}}]},
            {"choices": [{"delta": {}, "finish_reason": "length"}]},
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        ]
    )
    assert [line["message"]["content"] for line in said] == ["", "Hi", ""]
    assert said[0]["message"]["thinking"] == "Hm."
    last = said[-1]
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)


def test_tool_calls_come_whole_with_the_last_line() -> None:
    part = [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"x"'}}]}}]
    rest = [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}}]
    (last,) = lines([{"choices": part}, {"choices": rest}])
    assert last["message"]["tool_calls"] == [{"function": {"name": "f", "arguments": {"x": 1}}}]


def test_an_error_in_the_middle_is_a_line() -> None:
    line = Translation("m", chat=False).line(b'{"error":{"message":"no"}}')
    assert json.loads(line) == {"error": "no"}
