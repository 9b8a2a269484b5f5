"""Server-sent events: the WHATWG grammar, whatever the pieces of the stream are."""

import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.openai.sse import EventParser, EventTooLarge, SseEvent, encode_event, read_data

STREAM = b': ping\n\ndata: {"a":1}\n\ndata:{"b":2}\r\n\r\nevent: x\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'
DATA = [None, b'{"a":1}', b'{"b":2}', b"1\n2", b"[DONE]"]
FIELDS = (
    b"data: a",
    b"data:b",
    b"data",
    b"data:  c",
    b": note",
    b"event: x",
    b"id: 7",
    b"retry: 10",
    b"x: y",
)


def parse(stream: bytes, cuts: list[int], max_event_bytes: int = 1000) -> tuple[list[SseEvent], bytes]:
    """The events of `stream` cut at `cuts`, and what follows them."""
    parser, events = EventParser(max_event_bytes), list[SseEvent]()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += parser.feed(stream[start:end])
    return events, parser.rest


def dispatched(events: list[SseEvent]) -> list[tuple[bytes, str, str, int | None]]:
    """What the grammar dispatches: events with data."""
    return [(event.data, event.type, event.id, event.retry_ms) for event in events if event.data is not None]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\r\n\n", [b"a"]),
        (b"data: a\n\r\n", [b"a"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data:a\n\ndata:  a\n\n", [b"a", b" a"]),
        (b"data\n\ndata:\n\n", [b"", b""]),
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b": comment\n\n", []),
        (b":\ndata: a\n: comment\n\n", [b"a"]),
        (b"event: x\n\ndata: a\n\n", [b"a"]),
        (b"DATA: a\nunknown: b\n data: c\n\n", []),
        (b"\n\n\n\ndata: a\n\n\n", [b"a"]),
        (b"data: a: b\n\n", [b"a: b"]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data: \xff\x00\n\n", [b"\xff\x00"]),
    ],
)
def test_the_grammar_of_events(stream: bytes, data: list[bytes]) -> None:
    events, rest = parse(stream, [])
    assert [event.data for event in events if event.data is not None] == data
    assert b"".join(event.raw for event in events) + rest == stream


def test_type_id_and_reconnection_time() -> None:
    stream = (
        b"event: x\nid: 7\nretry: 10\ndata: a\n\nretry: soon\ndata: b\n\nid: \0\ndata: c\n\nid\ndata: d\n\n"
    )
    events, _ = parse(stream, [])
    assert dispatched(events) == [
        (b"a", "x", "7", 10),
        (b"b", "message", "7", None),
        (b"c", "message", "7", None),
        (b"d", "message", "", None),
    ]


def test_a_reconnection_time_of_any_length_is_a_number_of_bounded_size() -> None:
    (event,), _ = parse(b"retry: " + b"9" * 500 + b"\ndata: a\n\n", [])
    assert event.retry_ms == 10**18 - 1


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    events, rest = parse(STREAM, cuts)
    # A cut between \r\n and \r\n may end an event early; no byte is lost or changed all the same.
    assert b"".join(event.raw for event in events) == STREAM
    assert rest == b""
    assert [event.data for event in events if event.raw.strip()] == DATA


@given(
    lines=st.lists(
        st.tuples(st.sampled_from((*FIELDS, b"")), st.sampled_from((b"\n", b"\r", b"\r\n"))), max_size=30
    ),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_any_stream_reads_the_same_as_its_lines_wherever_it_is_cut(
    lines: list[tuple[bytes, bytes]], bom: bool, cuts: list[int]
) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + b"".join(map(b"".join, lines))
    events, rest = parse(stream, cuts)
    assert b"".join(event.raw for event in events) + rest == stream
    assert dispatched(events) == by_the_specification(stream)


def by_the_specification(stream: bytes) -> list[tuple[bytes, str, str, int | None]]:
    """The grammar line by line, as its specification has it; `retry` is that of the event."""
    out: list[tuple[bytes, str, str, int | None]] = []
    data, kind, last_id, retry = b"", "", "", None
    *lines, _unfinished = (
        stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    )
    for line in lines:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if not line:
            if data:
                out.append((data[:-1], kind or "message", last_id, retry))
            data, kind, retry = b"", "", None
        elif name == b"data":
            data += value + b"\n"
        elif name == b"event":
            kind = value.decode()
        elif name == b"id":
            last_id = value.decode()
        elif name == b"retry":
            retry = int(value)
    return out


@given(size=st.integers(90, 110), cuts=st.lists(st.integers(0, 120), max_size=5), ended=st.booleans())
def test_an_event_over_the_limit_is_refused_wherever_it_is_cut(
    size: int, cuts: list[int], ended: bool
) -> None:
    event = b"data: " + b"x" * (size - 8) + b"\n\n"
    stream = event if ended else event[:-2]
    if len(stream) > 100:
        with pytest.raises(EventTooLarge, match="100 bytes"):
            parse(stream, cuts, 100)
    else:
        assert parse(stream, cuts, 100)[1] == (b"" if ended else stream)


async def test_the_data_of_a_stream_comes_without_its_comments() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(STREAM), 7):
            yield STREAM[start : start + 7]

    assert [data async for data in read_data(pieces())] == DATA[1:]


@pytest.mark.parametrize(
    ("event_type", "expected"), [(None, b"data: x\n\n"), ("e", b"event: e\ndata: x\n\n")]
)
def test_an_encoded_event_reads_as_it_was(event_type: str | None, expected: bytes) -> None:
    assert encode_event(b"x", event_type) == expected
    (event,), _ = parse(expected, [])
    assert (event.data, event.type) == (b"x", event_type or "message")
