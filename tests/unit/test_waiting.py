"""Places in the queue, and going on with an answer that broke off."""

import json
from typing import Any

import pytest

from schemas.endpoints import Style
from schemas.errors import QueueFull
from schemas.models import ModelSpec
from schemas.requests import Lane
from services.gateway.inference.continuation import continued
from services.gateway.inference.transcript import FOLD_BYTES, Transcript
from services.gateway.inference.waiting import Durations, check_room, position

FIRST, LATER = Lane.INTERACTIVE, Lane.BATCH


@pytest.mark.parametrize(
    ("mine", "before", "others", "expected"),
    [
        ((FIRST, "a"), 0, {}, 1),
        ((FIRST, "a"), 2, {}, 3),
        ((FIRST, "a"), 0, {(FIRST, "b"): 100}, 2),
        ((FIRST, "a"), 3, {(FIRST, "b"): 100, (FIRST, "c"): 1}, 9),
        ((FIRST, "a"), 0, {(LATER, "b"): 50}, 1),
        ((LATER, "a"), 0, {(FIRST, "b"): 5, (LATER, "b"): 3}, 7),
        ((FIRST, "a"), 1, {(FIRST, "a"): 4}, 2),
    ],
)
def test_a_place_counts_what_is_served_before(
    mine: tuple[Lane, str], before: int, others: dict[tuple[Lane, str | None], int], expected: int
) -> None:
    assert position(mine, before, others) == expected


def test_a_full_queue_says_when_to_come_back() -> None:
    spec = ModelSpec(name="m", path="m.gguf", queue_max=2)
    check_room(spec, 1, 0.0)
    with pytest.raises(QueueFull, match="2 requests wait for m") as caught:
        check_room(spec, 2, 7.2)
    assert caught.value.retry_after_s == 8


def test_durations_follow_what_is_seen() -> None:
    durations = Durations()
    assert durations.of("m") == 2.0
    durations.note("m", 10.0)
    assert durations.of("m") == 10.0
    durations.note("m", 0.0)
    assert durations.of("m") == 8.0


def said(*texts: str, key: str = "content", finish: str | None = None, index: int = 0) -> Transcript:
    transcript = Transcript()
    for text in texts:
        choice = {"index": index, "delta": {key: text}, "finish_reason": finish}
        transcript.add(b"data: " + json.dumps({"id": "c1", "created": 5, "choices": [choice]}).encode())
        transcript.add(b"\n\n")
    return transcript


def test_a_chat_goes_on_with_its_text_as_prefill() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "stream": True}
    sent = said("Hel", "lo")
    rest = json.loads(continued(json.dumps(body).encode(), Style.CHAT, sent) or b"")
    assert rest["messages"] == [*body["messages"], {"role": "assistant", "content": "Hello"}]  # type: ignore[misc]
    assert rest["max_tokens"] == 8
    goes_on = sent.continues()
    assert (goes_on.id, goes_on.created, goes_on.completion_tokens) == ("c1", 5, 2)


def test_a_prefill_of_the_clients_own_is_kept() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]}
    rest = json.loads(continued(json.dumps(body).encode(), Style.CHAT, said("hello")) or b"")
    assert rest["messages"][1:] == [{"role": "assistant", "content": "Well, hello"}]


def test_a_text_completion_goes_on_with_a_longer_prompt() -> None:
    transcript = Transcript()
    transcript.add(b'data: {"id":"c","created":1,"choices":[{"index":0,"text":" a time"}]}\n\n')
    rest = json.loads(continued(b'{"prompt":"Once upon"}', Style.COMPLETION, transcript) or b"")
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
def test_what_ties_the_rest_to_the_beginning_cannot_go_on(more: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **more}
    assert continued(json.dumps(body).encode(), Style.CHAT, said("x")) is None


@pytest.mark.parametrize(
    "sent",
    [said(), said("x", key="reasoning_content"), said("x", key="tool_calls"), said("x", index=1)],
    ids=["nothing", "reasoning", "tools", "a second choice"],
)
def test_an_answer_that_is_more_than_text_cannot_go_on(sent: Transcript) -> None:
    body = b'{"messages":[{"role":"user","content":"Hi"}]}'
    assert continued(body, Style.CHAT, sent) is None


def test_a_long_answer_is_kept_as_its_text_only() -> None:
    sent = said(*["word " * 100] * 400)
    assert sent.tokens > 0, "it was folded on the way"
    sent.fold()
    assert sent.text == "word " * 40_000
    assert len(sent._raw) <= FOLD_BYTES
    assert not sent.finished
