"""Dialects: bodies for the engine, events relayed to the client, and whole answers put together."""

import json
from typing import Any

import msgspec
import pytest

from modelyard.openai.errors import engine_error
from modelyard.openai.sse import EventParser, SseEvent, encode_event
from schemas.models import ParameterPolicy
from schemas.requests import Continuation
from services.supervisor.dialects.base import Plain
from services.supervisor.dialects.completions import Completions
from services.supervisor.dialects.typed_events import Messages, Responses
from services.supervisor.dialects.whole import WholeChat, WholeText


def event(data: bytes) -> SseEvent:
    """One event with this data."""
    return SseEvent(encode_event(data), data)


@pytest.mark.parametrize(
    ("given_body", "reports_usage", "options"),
    [
        ({}, False, {"include_usage": True}),
        ({"stream": False}, False, {"include_usage": True}),
        ({"stream_options": None}, False, {"include_usage": True}),
        ({"stream_options": {"include_usage": True}}, True, {"include_usage": True}),
        ({"stream_options": {"include_usage": False, "x": 1}}, False, {"include_usage": True, "x": 1}),
    ],
)
def test_the_engine_always_gets_a_request_for_a_stream_with_usage(
    given_body: dict[str, Any], reports_usage: bool, options: dict[str, Any]
) -> None:
    prompt = {"messages": [{"role": "user", "content": "é\u2028\n"}], "temperature": 0.10}
    dialect = Completions(WholeChat())
    sent = dialect.request_body(json.dumps({**prompt, **given_body}).encode(), ParameterPolicy())
    assert json.loads(sent) == {**prompt, "stream": True, "stream_options": options}
    usage = event(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    assert dialect.relay(usage) == b"", "it may be about one choice of several"
    done = event(b"[DONE]")
    assert dialect.relay(done) == (usage.raw + done.raw if reports_usage else done.raw)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"stream_options":7}', b""])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Completions(WholeChat()).request_body(body, ParameterPolicy())


def chunk(**delta: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }


def whole(*chunks: dict[str, Any]) -> dict[str, Any]:
    completion = WholeChat()
    for fields in chunks:
        completion.add(json.dumps(fields).encode())
    answer: dict[str, Any] = json.loads(completion.encode())
    return answer


def test_a_whole_chat_has_text_reasoning_usage_and_timings() -> None:
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


def test_tool_calls_are_folded_from_their_deltas() -> None:
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


def test_choices_and_logprobs_keep_their_index() -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}}]}
    answer = whole(second, chunk(content="a"), second)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "bb"]
    assert answer["choices"][1]["logprobs"]["content"] == [{"token": "b"}, {"token": "b"}]


def test_reported_usage_replaces_the_count_of_chunks() -> None:
    dialect = Completions(WholeChat())
    for delta in (chunk(role="assistant"), chunk(content="a"), chunk(content="b")):
        sent = event(json.dumps(delta).encode())
        assert dialect.relay(sent) == sent.raw
    assert dialect.meter.completion_tokens == 3
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    last = {"choices": [], "usage": usage, "timings": {"predicted_per_second": 5.5}}
    assert dialect.relay(event(json.dumps(last).encode())) == b""
    meter = dialect.meter
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (9, 4, 2)
    assert meter.tokens_per_s == 5.5
    assert not dialect.done
    dialect.relay(event(b"[DONE]"))
    assert dialect.done
    dialect.relay(event(b'{"error":{"message":"no"}}'))
    assert dialect.error is not None
    assert dialect.error.message == "no"
    assert dialect.relay(event(b"not json")) == b"data: not json\n\n"


def stream(*chunks: dict[str, Any]) -> list[SseEvent]:
    return [event(json.dumps(fields).encode()) for fields in chunks] + [event(b"[DONE]")]


def tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@pytest.mark.parametrize(
    ("fields", "chunks", "usage"),
    [
        # llama-server reports every choice, all of one prompt.
        ({"n": 2}, [{"choices": [], "usage": tokens(9, 4)}, {"choices": [], "usage": tokens(9, 3)}], (9, 7)),
        # Several prompts have one report each.
        (
            {"prompt": ["a", "b"]},
            [
                {"choices": [{"index": 1, "text": "", "finish_reason": "stop"}], "usage": tokens(2, 4)},
                {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": tokens(3, 3)},
            ],
            (5, 7),
        ),
        # Other engines report once for all, some a running total with every chunk.
        ({"n": 2}, [{"choices": [], "usage": tokens(9, 7)}], (9, 7)),
        (
            {},
            [
                {"choices": [{"index": 0, "text": "a"}], "usage": tokens(9, 1)},
                {"choices": [{"index": 0, "text": "b"}], "usage": tokens(9, 2)},
                {"choices": [], "usage": tokens(9, 2)},
            ],
            (9, 2),
        ),
    ],
)
def test_usage_is_the_total_of_all_choices(
    fields: dict[str, Any], chunks: list[dict[str, Any]], usage: tuple[int, int]
) -> None:
    body = json.dumps({**fields, "stream_options": {"include_usage": True}}).encode()
    streamed, together = Completions(WholeText()), Completions(WholeText())
    for dialect in (streamed, together):
        dialect.request_body(body, ParameterPolicy())
    shown = b"".join(streamed.relay(sent) for sent in stream(*chunks))
    for sent in stream(*chunks):
        together.collect(sent)
    assert (streamed.meter.prompt_tokens, streamed.meter.completion_tokens) == usage
    assert json.loads(together.whole())["usage"].items() >= tokens(*usage).items()
    unassigned = [
        json.loads(sent.data or b"")["usage"]
        for sent in EventParser().feed(shown)
        if b'"choices": []' in sent.raw or b'"choices":[]' in sent.raw
    ]
    assert len(unassigned) <= 1
    assert all(reported.items() >= tokens(*usage).items() for reported in unassigned)


def test_a_null_event_is_no_part_of_the_answer() -> None:
    """llama-server's first event where a text completion has several prompts."""
    streamed, together = Completions(WholeText()), Completions(WholeText())
    assert streamed.relay(event(b"null")) == b""
    together.collect(event(b"null"))
    assert json.loads(together.whole())["choices"] == []


def only_data(stream: bytes) -> bytes:
    (only,) = EventParser().feed(stream)
    assert only.data is not None
    return only.data


def test_a_continuation_has_the_id_time_and_usage_of_the_whole_answer() -> None:
    dialect = Completions(WholeChat(), Continuation(id="first", created=7, completion_tokens=10))
    dialect.request_body(b'{"stream_options":{"include_usage":true}}', ParameterPolicy())
    shown = dialect.relay(event(json.dumps(chunk(role="assistant", content="c")).encode()))
    seen = json.loads(only_data(shown))
    assert (seen["id"], seen["created"]) == ("first", 7)
    assert seen["choices"][0]["delta"] == {"content": "c"}
    usage = {"choices": [], "usage": {"prompt_tokens": 15, "completion_tokens": 3, "total_tokens": 18}}
    assert dialect.relay(event(json.dumps(usage).encode())) == b""
    last = json.loads(only_data(dialect.relay(event(b"[DONE]")).removesuffix(event(b"[DONE]").raw)))
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 13, "total_tokens": 18}
    assert (dialect.meter.prompt_tokens, dialect.meter.completion_tokens) == (5, 13)
    assert dialect.relay(SseEvent(b": ping\n\n", None)) == b""


def test_the_parameter_policy_of_a_model_drops_defaults_and_forces() -> None:
    policy = ParameterPolicy(defaults={"temperature": 0.5, "top_p": 1}, forced={"seed": 1}, dropped=("user",))
    body = {"model": "m", "temperature": 0, "seed": 9, "user": "u", "api_base": "http://evil", "api_key": "k"}
    sent = json.loads(Plain("application/json").request_body(json.dumps(body).encode(), policy))
    assert sent == {"model": "m", "temperature": 0, "top_p": 1, "seed": 1}
    assert Plain("multipart/form-data").request_body(b"--x", policy) == b"--x"


def test_a_whole_text_completion_is_put_together() -> None:
    whole_text = WholeText()
    for text, reason in (("a", None), ("b", None), ("", "length")):
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": {"tokens": [text]}}
        whole_text.add(json.dumps({"id": "c", "choices": [choice]}).encode())
    (choice,) = json.loads(whole_text.encode())["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"] == {"tokens": ["a", "b", ""]}


def events(*contents: dict[str, Any]) -> list[SseEvent]:
    encoded = [encode_event(json.dumps(content).encode(), content["type"]) for content in contents]
    return EventParser().feed(b"".join(encoded))


def test_the_last_event_carries_the_whole_response() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
    response = {"id": "resp_1", "status": "completed", "usage": usage}
    dialect = Responses()
    for sent in events(
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.completed", "response": response},
    ):
        dialect.collect(sent)
    assert dialect.done
    assert json.loads(dialect.whole()) == response
    meter = dialect.meter
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens) == (5, 4, 2)


def test_a_whole_message_has_its_tool_calls() -> None:
    dialect = Messages()
    for sent in events(
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
        dialect.collect(sent)
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


def test_a_tool_call_that_is_cut_off_has_empty_arguments() -> None:
    dialect = Messages()
    for sent in events(
        {"type": "message_start", "message": {"id": "m"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": '{"x": "unfin'}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ):
        dialect.collect(sent)
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
def test_an_engine_error_gets_the_one_shape(body: bytes, message: str, code: str) -> None:
    error = engine_error(body, 500)
    assert (error.message, error.code) == (message, code)
