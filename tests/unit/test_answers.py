"""Frames on their way in: in order, of one attempt, never silently short."""

import pytest

from schemas.errors import EngineFailed, ErrorDetail
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend, decode_frame, encode_frame
from schemas.models import ModelSpec
from services.gateway.inference.answer import MAX_BUFFERED_BYTES, Answer
from services.gateway.inference.ask import Ask

HEAD = AnswerHead(status=200, content_type="text/plain", instance="i1")


def frame(number: int, *, end: AnswerEnd | None = None, attempt: int = 1, delivery: int = 1) -> Frame:
    head = None if number else HEAD
    return Frame(attempt=attempt, delivery=delivery, number=number, head=head, end=end)


@pytest.fixture
async def answer() -> Answer:
    ask = Ask(path="/v1/embeddings", body=b"{}", model="m", stream=False)
    return Answer(ask, ModelSpec(name="m", path="m.gguf"), lambda answer: answer.fail(EngineFailed("broke")))


async def body(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer.body()])


def test_a_frame_is_a_line_and_then_bytes_of_any_kind() -> None:
    data = b'\n{"x"}\n\x00'
    assert decode_frame(encode_frame(frame(3), data)) == (frame(3), data)


async def test_frames_in_order_are_the_answer(answer: Answer) -> None:
    for number, data in enumerate((b"a", b"b")):
        assert answer.on_frame(frame(number), data) is None
    answer.on_frame(frame(2, end=AnswerEnd()), b"c")
    assert (await answer.head()).instance == "i1"
    assert await body(answer) == b"abc"
    assert answer.by_runner


async def test_a_repeated_frame_and_one_of_another_attempt_or_runner_change_nothing(answer: Answer) -> None:
    answer.on_frame(frame(0), b"a")
    answer.on_frame(frame(0), b"a")
    answer.on_frame(frame(1, attempt=2), b"later")
    answer.on_frame(frame(0, delivery=2), b"other")
    answer.on_frame(frame(1, delivery=2, end=AnswerEnd()), b"other")
    answer.on_frame(frame(1, end=AnswerEnd()), b"b")
    assert await body(answer) == b"ab"


async def test_who_takes_a_redelivered_request_that_has_begun_is_not_at_it(answer: Answer) -> None:
    """A vanished runner's request was given to another before the gateway gave that runner up.

    The other one is turned away; taken for the one at work, it kept the answer waiting for ever.
    """
    answer.on_started("i0", 1)
    answer.on_started("i1", 1)
    assert answer.instance == "i1", "nothing has come yet: who took it last is at it"
    answer.on_frame(frame(0), b"a")
    heard_at = answer.heard_at
    answer.on_started("i2", 1)
    assert (answer.instance, answer.heard_at) == ("i1", heard_at)
    answer.try_again()
    answer.on_started("i2", 2)
    assert answer.instance == "i2"


async def test_what_is_missing_is_asked_for_again_and_the_answer_is_whole(answer: Answer) -> None:
    answer.on_frame(frame(0), b"a")
    assert answer.on_frame(frame(2), b"c") == Resend(attempt=1, delivery=1, number=1)
    assert answer.on_frame(frame(3, end=AnswerEnd()), b"d") is None, "asked already"
    assert not answer.has(4)
    for number, data in ((1, b"b"), (2, b"c"), (3, b"d")):
        answer.on_frame(frame(number, end=AnswerEnd() if number == 3 else None), data)
    assert await body(answer) == b"abcd"


async def test_a_lost_beginning_is_asked_for_too(answer: Answer) -> None:
    assert answer.on_frame(frame(1, delivery=2), b"b") == Resend(attempt=1, delivery=2, number=0)
    answer.on_frame(frame(0, delivery=2), b"a")
    answer.on_frame(frame(1, delivery=2, end=AnswerEnd()), b"b")
    assert await body(answer) == b"ab"


async def test_another_attempt_begins_where_the_client_is(answer: Answer) -> None:
    answer.on_frame(frame(0), b"a")
    answer.try_again()
    answer.on_frame(frame(1), b"late")
    answer.on_frame(frame(0, attempt=2), b"b")
    answer.on_frame(frame(1, attempt=2, end=AnswerEnd()), b"")
    assert await body(answer) == b"ab"


async def test_a_reader_too_slow_is_given_up(answer: Answer) -> None:
    answer.on_frame(frame(0), b"x" * (MAX_BUFFERED_BYTES + 1))
    assert answer.ended
    assert not answer.by_runner


async def test_an_end_with_an_error_is_raised_as_that_error(answer: Answer) -> None:
    error = ErrorDetail(message="Late.", type="server_error", code="engine_failed")
    answer.on_frame(frame(0, end=AnswerEnd(error=error)), b"")
    with pytest.raises(EngineFailed, match="Late"):
        await body(answer)
    assert answer.by_runner


async def test_an_engine_that_broke_off_is_not_the_end_of_it(answer: Answer) -> None:
    error = ErrorDetail(message="Gone.", type="server_error", code="engine_failed")
    answer.on_frame(frame(0, end=AnswerEnd(error=error, again=True)), b"")
    with pytest.raises(EngineFailed, match="broke"):
        await body(answer)
    assert not answer.by_runner


async def test_only_the_first_failure_counts(answer: Answer) -> None:
    answer.fail(EngineFailed("first"))
    answer.fail(EngineFailed("second"))
    with pytest.raises(EngineFailed, match="first"):
        await answer.head()
