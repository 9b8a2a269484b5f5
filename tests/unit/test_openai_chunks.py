"""Chunks of completions: their text, their errors, and tool calls folded from deltas."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.openai import chunks
from modelyard.openai.chunks import ToolCalls, chunk_text
from modelyard.openai.errors import incomplete_answer
from modelyard.openai.sse import EventParser
from schemas.errors import BadRequest, EngineFailed, QueueFull


@given(st.lists(st.integers(0, 200)))
def test_the_text_of_a_stream_is_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    stream = (
        ': waiting\n\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
        'data: {"choices":[{"delta":{"content":"Gr\u00fc"}}]}\r\n\r\n'
        'event: x\ndata:{"choices":[{"delta":{"content":"\u00dfe"}}]}\n\n'
        'data: {"choices":[]}\n\ndata: [DONE]\n\n'
    ).encode()
    parser, edges = EventParser(), [0, *sorted(cuts), len(stream)]
    events = [event for start, end in itertools.pairwise(edges) for event in parser.feed(stream[start:end])]
    assert "".join(chunk_text(event.data) for event in events if event.data) == "Gr\u00fc\u00dfe"


def test_an_error_in_a_stream_is_raised_as_that_error() -> None:
    with pytest.raises(QueueFull, match="too many"):
        chunk_text(b'{"error": {"message": "too many", "type": "rate_limit_error", "code": "queue_full"}}')
    for broken in (b"{", b"[]", b'{"error": "oh"}'):
        with pytest.raises(EngineFailed):
            chunk_text(broken)


@pytest.mark.parametrize(
    ("rest", "kind", "message"),
    [
        (b'{"error":{"message":"no","type":"x","code":"of_the_engine"}}', BadRequest, "no"),
        (b"data: {", EngineFailed, "The answer ended before it was complete."),
    ],
)
def test_an_answer_that_ends_early_is_an_error(rest: bytes, kind: type[Exception], message: str) -> None:
    error = incomplete_answer(rest)
    assert (type(error), error.message) == (kind, message)


def part(arguments: str = "", name: str = "", **fields: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **fields}


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        ([[part("{", "f", index=0, id="a")], [part("}", index=0)]], [("a", "f", "{}")]),
        (
            [[part("{}", "g", index=9), part("{", "f", index=2)], [part("}", index=2)]],
            [("", "f", "{}"), ("", "g", "{}")],
        ),
        ([[part("{", "f", id="a")], [part("}")]], [("a", "f", "{}")]),
        ([[part("{}", "f", id="a")], [part("{}", "g", id="b")]], [("a", "f", "{}"), ("b", "g", "{}")]),
        ([[part("{}", "f"), part("{}", "f")]], [("", "f", "{}"), ("", "f", "{}")]),
        ([[{"index": None, "id": None, "function": None}], [part("{}", "f")]], [("", "f", "{}")]),
        ([[part("{}", "f", index=10**12)], [part("{}", "g", index=-3)]], [("", "g", "{}"), ("", "f", "{}")]),
        ([[]], []),
    ],
)
def test_tool_calls_are_folded_by_their_index(
    deltas: list[list[dict[str, Any]]], calls: list[tuple[str, str, str]]
) -> None:
    folded = ToolCalls()
    for delta in deltas:
        folded.add(delta)
    functions = [(call["id"], call["function"]) for call in folded.folded()]
    assert [(name, function["name"], function["arguments"]) for name, function in functions] == calls


def test_the_number_of_tool_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_TOOL_CALLS", 3)
    calls = ToolCalls()
    calls.add([part(index=index) for index in (0, 10**9, 5)])
    calls.add([part("x", index=5)])
    with pytest.raises(EngineFailed, match="more than 3"):
        calls.add([part(index=6)])
