"""Server-sent events, the bodies sent up and the answers put together from what comes down."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.supervisor.runner.body import upstream_body
from services.supervisor.runner.completion import Completion
from services.supervisor.runner.sse import EventSplitter, event_data

from services.supervisor.runner.metering import Meter
from services.supervisor.runner.relay import engine_error

STREAM = b': ping\n\ndata: {"a":1}\n\ndata:{"b":2}\r\n\r\nevent: x\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'
DATA = [None, b'{"a":1}', b'{"b":2}', b"1\n2", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_however_a_stream_is_cut_the_events_are_the_same(cuts: list[int]) -> None:
    splitter, events = EventSplitter(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        events += splitter.feed(STREAM[start:end])
    # A cut between \r\n and \r\n may end an event early; no byte is lost or changed all the same.
    assert b"".join(events) == STREAM
    assert [event_data(event) for event in events if event.strip()] == DATA


@pytest.mark.parametrize(
    ("given_body", "wants", "options"),
    [
        ({}, False, {"include_usage": True}),
        ({"stream": False}, False, {"include_usage": True}),
        ({"stream_options": None}, False, {"include_usage": True}),
        ({"stream_options": {"include_usage": True}}, True, {"include_usage": True}),
        ({"stream_options": {"include_usage": False, "x": 1}}, False, {"include_usage": True, "x": 1}),
    ],
)
def test_the_engine_is_always_asked_for_a_stream_with_usage(
    given_body: dict[str, Any], wants: bool, options: dict[str, Any]
) -> None:
    prompt = {"messages": [{"role": "user", "content": "é\u2028\n"}], "temperature": 0.10}
    sent = upstream_body(json.dumps({**prompt, **given_body}).encode())
    assert sent.wants_usage is wants
    assert json.loads(sent.data) == {**prompt, "stream": True, "stream_options": options}


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"stream_options":7}', b""])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        upstream_body(body)


def chunk(**delta: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }


def whole(*chunks: dict[str, Any]) -> dict[str, Any]:
    completion = Completion()
    for each in chunks:
        completion.add(json.dumps(each).encode())
    answer: dict[str, Any] = json.loads(completion.encode())
    return answer


def test_text_reasoning_usage_and_timings_are_put_together() -> None:
    end = {
        "id": "c1",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "timings": {"predicted_n": 2},
    }
    answer = whole(
        chunk(role="assistant", content=None),
        chunk(reasoning_content="Hm"),
        chunk(reasoning_content="m."),
        chunk(content="Hel"),
        chunk(content="lo"),
        end,
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    )
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "reasoning_content": "Hmm."}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 5
    assert answer["timings"] == {"predicted_n": 2}


def test_tool_calls_come_in_parts() -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": index, "function": function}])

    first = chunk(tool_calls=[{"index": 0, "id": "t0", "type": "function", "function": {"name": "f"}}])
    second = chunk(tool_calls=[{"index": 1, "id": "t1", "type": "function", "function": {"name": "g"}}])
    answer = whole(
        first, part(0, arguments='{"x"'), part(0, arguments=":1}"), second, part(1, arguments="{}")
    )
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "t0", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "t1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_several_choices_and_logprobs_keep_their_place() -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}}]}
    answer = whole(second, chunk(content="a"), second)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "bb"]
    assert answer["choices"][1]["logprobs"]["content"] == [{"token": "b"}, {"token": "b"}]


def test_the_meter_believes_the_engine_and_counts_until_it_speaks() -> None:
    meter = Meter()
    for each in (chunk(role="assistant"), chunk(content="a"), chunk(content="b")):
        seen = meter.see(json.dumps(each).encode())
        assert not (seen.usage_only or seen.error or seen.done)
    assert meter.completion_tokens == 3
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    seen = meter.see(
        json.dumps({"choices": [], "usage": usage, "timings": {"predicted_per_second": 5.5}}).encode()
    )
    assert seen.usage_only
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (9, 4, 2)
    assert meter.tokens_per_s == 5.5
    assert meter.see(b"[DONE]").done
    assert meter.see(b'{"error":{"message":"no"}}').error
    assert not meter.see(b"not json").done


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"code":400,"message":"too long","type":"exceed"}}', "too long", "exceed"),
        (b'{"error":{"code":"c","message":"m","type":"t"}}', "m", "c"),
        (b"<html>oops", "The engine answered 500: <html>oops.", "engine_failed"),
        (b"", "The engine answered 500: nothing.", "engine_failed"),
    ],
)
def test_an_engines_error_gets_the_one_shape(body: bytes, message: str, code: str) -> None:
    error = engine_error(body, 500)
    assert (error.message, error.code) == (message, code)
