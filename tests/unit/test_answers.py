"""Frames on their way in: in order, of one attempt, never silently short."""

import msgspec
import pytest

from schemas.errors import EngineFailed, ErrorDetail, YardError
from schemas.models import ModelSpec
from schemas.requests import END, HEAD, AnswerEnd, AnswerHead
from services.gateway.answers import MAX_BUFFERED_BYTES, Answer

HEAD_FRAME = msgspec.json.encode(AnswerHead(status=200, content_type="text/plain", instance="i1"))


def end(frames: int, error: ErrorDetail | None = None) -> bytes:
    return msgspec.json.encode(AnswerEnd(frames=frames, error=error))


@pytest.fixture
async def answer() -> Answer:
    return Answer("r1", ModelSpec(name="m", path="m.gguf"), 0.0)


async def body(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer.body()])


async def test_frames_in_order_are_the_answer(answer: Answer) -> None:
    for part, data in ((HEAD, HEAD_FRAME), ("1", b"a"), ("2", b"b"), (END, end(2))):
        answer.on_frame("1", part, data)
    assert (await answer.head()).instance == "i1"
    assert await body(answer) == b"ab"
    assert answer.by_runner


async def test_a_repeated_frame_and_one_of_another_attempt_change_nothing(answer: Answer) -> None:
    for attempt, part, data in (
        ("1", HEAD, HEAD_FRAME),
        ("1", "1", b"a"),
        ("1", "1", b"a"),
        ("2", "1", b"other"),
        ("2", END, end(1)),
        ("1", END, end(1)),
        ("1", END, end(1)),
    ):
        answer.on_frame(attempt, part, data)
    assert await body(answer) == b"a"


async def test_a_second_attempt_before_the_first_head_takes_over(answer: Answer) -> None:
    answer.on_frame("2", HEAD, HEAD_FRAME)
    answer.on_frame("2", "1", b"a")
    answer.on_frame("2", END, end(1))
    assert await body(answer) == b"a"


@pytest.mark.parametrize(
    "frames",
    [
        [("1", HEAD, HEAD_FRAME), ("1", "2", b"b")],
        [("1", HEAD, HEAD_FRAME), ("1", "1", b"a"), ("1", END, end(2))],
        [("1", HEAD, HEAD_FRAME), ("1", "1", b"a"), ("2", HEAD, HEAD_FRAME)],
        [("1", HEAD, HEAD_FRAME), ("1", "1", b"x" * (MAX_BUFFERED_BYTES + 1))],
    ],
    ids=["a gap", "an early end", "a second head after the first", "a reader too slow"],
)
async def test_an_answer_that_is_not_whole_is_an_error(
    answer: Answer, frames: list[tuple[str, str, bytes]]
) -> None:
    for frame in frames:
        answer.on_frame(*frame)
    with pytest.raises(EngineFailed):
        await body(answer)
    assert not answer.by_runner


async def test_an_end_with_an_error_is_raised_as_that_error(answer: Answer) -> None:
    error = ErrorDetail(message="Twice.", type="server_error", code="engine_failed")
    answer.on_frame("3", END, end(0, error))
    with pytest.raises(EngineFailed, match="Twice"):
        await answer.head()
    assert answer.by_runner


async def test_a_runner_that_sent_more_than_came_is_told_by_an_error(answer: Answer) -> None:
    answer.on_frame("1", HEAD, HEAD_FRAME)
    answer.on_frame("1", "1", b"a")
    assert answer.sees("1", 1)
    assert not answer.sees("1", 2)
    with pytest.raises(YardError, match="lost"):
        await body(answer)


async def test_only_the_first_failure_counts(answer: Answer) -> None:
    answer.fail(EngineFailed("first"))
    answer.fail(EngineFailed("second"))
    with pytest.raises(EngineFailed, match="first"):
        await answer.head()
