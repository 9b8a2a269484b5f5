"""Retries: the continuation of an answer that broke off, and when there is one."""

import json
from typing import Any

import pytest

from schemas.requests import Style
from services.gateway.inference.retry import FOLD_BYTES, Transcript, continuation


def transcript(*texts: str, key: str = "content", finish: str | None = None, index: int = 0) -> Transcript:
    received = Transcript()
    for text in texts:
        choice = {"index": index, "delta": {key: text}, "finish_reason": finish}
        received.add(b"data: " + json.dumps({"id": "c1", "created": 5, "choices": [choice]}).encode())
        received.add(b"\n\n")
    return received


def test_a_chat_continues_with_its_text_as_prefill() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "stream": True}
    received = transcript("Hel", "lo")
    rest = json.loads(continuation(json.dumps(body).encode(), Style.CHAT, received) or b"")
    assert rest["messages"] == [*body["messages"], {"role": "assistant", "content": "Hello"}]  # type: ignore[misc]
    assert rest["max_tokens"] == 8
    continues = received.continuation()
    assert (continues.id, continues.created, continues.completion_tokens) == ("c1", 5, 2)


def test_a_prefill_of_the_client_is_extended() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]}
    rest = json.loads(continuation(json.dumps(body).encode(), Style.CHAT, transcript("hello")) or b"")
    assert rest["messages"][1:] == [{"role": "assistant", "content": "Well, hello"}]


def test_a_text_completion_continues_with_a_longer_prompt() -> None:
    received = Transcript()
    received.add(b'data: {"id":"c","created":1,"choices":[{"index":0,"text":" a time"}]}\n\n')
    rest = json.loads(continuation(b'{"prompt":"Once upon"}', Style.COMPLETION, received) or b"")
    assert rest == {"prompt": "Once upon a time"}


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"n": 2},
        {"grammar": "root ::= x"},
        {"messages": "?"},
    ],
)
def test_fields_that_tie_later_tokens_to_earlier_ones_prevent_a_continuation(more: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **more}
    assert continuation(json.dumps(body).encode(), Style.CHAT, transcript("x")) is None


@pytest.mark.parametrize(
    "received",
    [
        transcript(),
        transcript("x", key="reasoning_content"),
        transcript("x", key="tool_calls"),
        transcript("x", index=1),
    ],
    ids=["nothing", "reasoning", "tools", "a second choice"],
)
def test_an_answer_with_more_than_text_is_not_continued(received: Transcript) -> None:
    body = b'{"messages":[{"role":"user","content":"Hi"}]}'
    assert continuation(body, Style.CHAT, received) is None


def test_a_long_answer_is_reduced_to_its_text() -> None:
    received = transcript(*["word " * 100] * 400)
    assert received.tokens > 0, "it was folded before the end"
    received.fold()
    assert received.text == "word " * 40_000
    assert len(received._raw) <= FOLD_BYTES
    assert not received.finished
