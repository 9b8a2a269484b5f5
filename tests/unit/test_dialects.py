"""Server-sent events, the bodies sent up and the answers put together from what comes down."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.models import ParameterPolicy
from schemas.requests import Continues
from services.supervisor.runner.dialects.base import engine_error
from services.supervisor.runner.dialects.chat_whole import ChatWhole
from services.supervisor.runner.dialects.chunks import Chunks
from services.supervisor.runner.dialects.messages import Messages
from services.supervisor.runner.dialects.plain import Plain
from services.supervisor.runner.dialects.responses import Responses
from services.supervisor.runner.dialects.sse import EventSplitter, event_data, write_event
from services.supervisor.runner.dialects.text_whole import TextWhole

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
    dialect = Chunks(ChatWhole())
    sent = dialect.ask(json.dumps({**prompt, **given_body}).encode(), ParameterPolicy())
    assert json.loads(sent) == {**prompt, "stream": True, "stream_options": options}
    usage = write_event(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    assert dialect.see(usage) == b"", "it may be about one choice of several"
    done = write_event(b"[DONE]")
    assert dialect.see(done) == (usage + done if wants else done)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"stream_options":7}', b""])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Chunks(ChatWhole()).ask(body, ParameterPolicy())


def chunk(**delta: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }


def whole(*chunks: dict[str, Any]) -> dict[str, Any]:
    completion = ChatWhole()
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


def test_the_engine_is_believed_and_chunks_are_counted_until_it_speaks() -> None:
    dialect = Chunks(ChatWhole())
    for each in (chunk(role="assistant"), chunk(content="a"), chunk(content="b")):
        event = write_event(json.dumps(each).encode())
        assert dialect.see(event) == event
    assert dialect.meter.completion_tokens == 3
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    last = {"choices": [], "usage": usage, "timings": {"predicted_per_second": 5.5}}
    assert dialect.see(write_event(json.dumps(last).encode())) == b""
    meter = dialect.meter
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (9, 4, 2)
    assert meter.tokens_per_s == 5.5
    assert not dialect.done
    dialect.see(write_event(b"[DONE]"))
    assert dialect.done
    dialect.see(write_event(b'{"error":{"message":"no"}}'))
    assert dialect.error is not None
    assert dialect.error.message == "no"
    assert dialect.see(b"data: not json\n\n") == b"data: not json\n\n"


def words(*chunks: dict[str, Any]) -> list[bytes]:
    return [write_event(json.dumps(each).encode()) for each in chunks] + [write_event(b"[DONE]")]


def said(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@pytest.mark.parametrize(
    ("asked", "chunks", "usage"),
    [
        # llama-server says it of every choice, all of one prompt.
        ({"n": 2}, [{"choices": [], "usage": said(9, 4)}, {"choices": [], "usage": said(9, 3)}], (9, 7)),
        # Of several prompts each has its own.
        (
            {"prompt": ["a", "b"]},
            [
                {"choices": [{"index": 1, "text": "", "finish_reason": "stop"}], "usage": said(2, 4)},
                {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": said(3, 3)},
            ],
            (5, 7),
        ),
        # Others say it once for all, some with every chunk what it has come to.
        ({"n": 2}, [{"choices": [], "usage": said(9, 7)}], (9, 7)),
        (
            {},
            [
                {"choices": [{"index": 0, "text": "a"}], "usage": said(9, 1)},
                {"choices": [{"index": 0, "text": "b"}], "usage": said(9, 2)},
                {"choices": [], "usage": said(9, 2)},
            ],
            (9, 2),
        ),
    ],
)
def test_usage_is_that_of_all_choices(
    asked: dict[str, Any], chunks: list[dict[str, Any]], usage: tuple[int, int]
) -> None:
    body = json.dumps({**asked, "stream_options": {"include_usage": True}}).encode()
    streamed, together = Chunks(TextWhole()), Chunks(TextWhole())
    for dialect in (streamed, together):
        dialect.ask(body, ParameterPolicy())
    shown = b"".join(streamed.see(event) for event in words(*chunks))
    for event in words(*chunks):
        together.keep(event)
    assert (streamed.meter.prompt_tokens, streamed.meter.completion_tokens) == usage
    assert json.loads(together.whole())["usage"].items() >= said(*usage).items()
    alone = [
        json.loads(event_data(event) or b"")["usage"]
        for event in EventSplitter().feed(shown)
        if b'"choices": []' in event or b'"choices":[]' in event
    ]
    assert len(alone) <= 1
    assert all(each.items() >= said(*usage).items() for each in alone)


def test_an_event_of_nothing_is_no_part_of_the_answer() -> None:
    """llama-server's first event where a text completion has several prompts."""
    streamed, together = Chunks(TextWhole()), Chunks(TextWhole())
    assert streamed.see(write_event(b"null")) == b""
    together.keep(write_event(b"null"))
    assert json.loads(together.whole())["choices"] == []


def test_the_second_part_of_an_answer_looks_like_the_first() -> None:
    dialect = Chunks(ChatWhole(), Continues(id="first", created=7, completion_tokens=10))
    dialect.ask(b'{"stream_options":{"include_usage":true}}', ParameterPolicy())
    shown = dialect.see(write_event(json.dumps(chunk(role="assistant", content="c")).encode()))
    seen = json.loads(event_data(shown) or b"")
    assert (seen["id"], seen["created"]) == ("first", 7)
    assert seen["choices"][0]["delta"] == {"content": "c"}
    usage = {"choices": [], "usage": {"prompt_tokens": 15, "completion_tokens": 3, "total_tokens": 18}}
    assert dialect.see(write_event(json.dumps(usage).encode())) == b""
    last = json.loads(event_data(dialect.see(write_event(b"[DONE]")).partition(b"\n\n")[0]) or b"")
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 13, "total_tokens": 18}
    assert (dialect.meter.prompt_tokens, dialect.meter.completion_tokens) == (5, 13)
    assert dialect.see(b": ping\n\n") == b""


def test_the_owner_of_a_model_rules_its_parameters() -> None:
    policy = ParameterPolicy(defaults={"temperature": 0.5, "top_p": 1}, forced={"seed": 1}, dropped=("user",))
    body = {"model": "m", "temperature": 0, "seed": 9, "user": "u", "api_base": "http://evil", "api_key": "k"}
    sent = json.loads(Plain("application/json").ask(json.dumps(body).encode(), policy))
    assert sent == {"model": "m", "temperature": 0, "top_p": 1, "seed": 1}
    assert Plain("multipart/form-data").ask(b"--x", policy) == b"--x"


def test_text_completions_are_put_together() -> None:
    whole_text = TextWhole()
    for text, reason in (("a", None), ("b", None), ("", "length")):
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": {"tokens": [text]}}
        whole_text.add(json.dumps({"id": "c", "choices": [choice]}).encode())
    (choice,) = json.loads(whole_text.encode())["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"] == {"tokens": ["a", "b", ""]}


def events(*contents: dict[str, Any]) -> list[bytes]:
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in contents]


def test_a_response_is_what_its_last_event_carries() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
    response = {"id": "resp_1", "status": "completed", "usage": usage}
    dialect = Responses()
    for event in events(
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.completed", "response": response},
    ):
        dialect.keep(event)
    assert dialect.done
    assert json.loads(dialect.whole()) == response
    meter = dialect.meter
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (5, 4, 2)


def test_a_message_is_put_together_with_its_tools() -> None:
    dialect = Messages()
    for event in events(
        {
            "type": "message_start",
            "message": {
                "id": "m",
                "role": "assistant",
                "content": [],
                "usage": {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 0},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "f"}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"x":'},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ):
        dialect.keep(event)
    assert dialect.done
    message = json.loads(dialect.whole())
    assert message["content"] == [
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "name": "f", "input": {"x": 1}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 9}
    meter = dialect.meter
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (5, 2, 9)


def test_a_call_that_was_cut_off_has_no_arguments() -> None:
    dialect = Messages()
    for event in events(
        {"type": "message_start", "message": {"id": "m"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": '{"x": "unfin'}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ):
        dialect.keep(event)
    assert json.loads(dialect.whole())["content"] == [{"type": "tool_use", "name": "f", "input": {}}]


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
