"""Frames as they arrive: in order, of one attempt, and an answer is never cut silently."""

import pytest

from schemas.errors import EngineFailed, ErrorDetail
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend, decode_frame, encode_frame
from schemas.models import ModelSpec
from services.gateway.inference.answer import MAX_BUFFERED_BYTES, AnswerReceiver
from services.gateway.inference.request import InferRequest

HEAD = AnswerHead(status=200, content_type="text/plain", instance="i1")


def frame(number: int, *, end: AnswerEnd | None = None, attempt: int = 1, delivery: int = 1) -> Frame:
    head = None if number else HEAD
    return Frame(attempt=attempt, delivery=delivery, number=number, head=head, end=end)


@pytest.fixture
async def answer() -> AnswerReceiver:
    request = InferRequest(path="/v1/embeddings", body=b"{}", model="m", stream=False)
    return AnswerReceiver(
        request, ModelSpec(name="m", path="m.gguf"), lambda answer: answer.fail(EngineFailed("broke"))
    )


def test_a_frame_is_a_json_line_and_then_any_bytes() -> None:
    data = b'\n{"x"}\n\x00'
    assert decode_frame(encode_frame(frame(3), data)) == (frame(3), data)


async def test_frames_in_order_are_the_answer(answer: AnswerReceiver) -> None:
    for number, data in enumerate((b"a", b"b")):
        assert answer.on_frame(frame(number), data) is None
    answer.on_frame(frame(2, end=AnswerEnd()), b"c")
    assert (await answer.head()).instance == "i1"
    assert await answer.read_all() == b"abc"
    assert answer.ended_by_runner


async def test_frames_that_repeat_or_belong_to_another_attempt_or_delivery_are_ignored(
    answer: AnswerReceiver,
) -> None:
    answer.on_frame(frame(0), b"a")
    answer.on_frame(frame(0), b"a")
    answer.on_frame(frame(1, attempt=2), b"later")
    answer.on_frame(frame(0, delivery=2), b"other")
    answer.on_frame(frame(1, delivery=2, end=AnswerEnd()), b"other")
    answer.on_frame(frame(1, end=AnswerEnd()), b"b")
    assert await answer.read_all() == b"ab"


async def test_a_redelivery_after_the_first_frame_does_not_change_the_instance(
    answer: AnswerReceiver,
) -> None:
    """The request of a vanished runner was redelivered before the gateway gave that runner up.

    The second runner is superseded; counted as the active one, it left the answer waiting forever.
    """
    answer.on_started("i0", 1)
    answer.on_started("i1", 1)
    assert answer.instance == "i1", "before the first frame the last start counts"
    answer.on_frame(frame(0), b"a")
    last_seen_at = answer.last_seen_at
    answer.on_started("i2", 1)
    assert (answer.instance, answer.last_seen_at) == ("i1", last_seen_at)
    answer.begin_retry()
    answer.on_started("i2", 2)
    assert answer.instance == "i2"


async def test_missing_frames_are_requested_once_and_complete_the_answer(answer: AnswerReceiver) -> None:
    answer.on_frame(frame(0), b"a")
    assert answer.on_frame(frame(2), b"c") == Resend(attempt=1, delivery=1, number=1)
    assert answer.on_frame(frame(3, end=AnswerEnd()), b"d") is None, "requested already"
    assert not answer.has_received(4)
    for number, data in ((1, b"b"), (2, b"c"), (3, b"d")):
        answer.on_frame(frame(number, end=AnswerEnd() if number == 3 else None), data)
    assert await answer.read_all() == b"abcd"


async def test_a_missing_first_frame_is_requested(answer: AnswerReceiver) -> None:
    assert answer.on_frame(frame(1, delivery=2), b"b") == Resend(attempt=1, delivery=2, number=0)
    answer.on_frame(frame(0, delivery=2), b"a")
    answer.on_frame(frame(1, delivery=2, end=AnswerEnd()), b"b")
    assert await answer.read_all() == b"ab"


async def test_a_retry_continues_the_body(answer: AnswerReceiver) -> None:
    answer.on_frame(frame(0), b"a")
    answer.begin_retry()
    answer.on_frame(frame(1), b"late")
    answer.on_frame(frame(0, attempt=2), b"b")
    answer.on_frame(frame(1, attempt=2, end=AnswerEnd()), b"")
    assert await answer.read_all() == b"ab"


async def test_the_answer_of_a_reader_that_is_too_slow_fails(answer: AnswerReceiver) -> None:
    answer.on_frame(frame(0), b"x" * (MAX_BUFFERED_BYTES + 1))
    assert answer.ended
    assert not answer.ended_by_runner


async def test_an_end_with_an_error_raises_that_error(answer: AnswerReceiver) -> None:
    error = ErrorDetail(message="Late.", type="server_error", code="engine_failed")
    answer.on_frame(frame(0, end=AnswerEnd(error=error)), b"")
    with pytest.raises(EngineFailed, match="Late"):
        await answer.read_all()
    assert answer.ended_by_runner


async def test_an_engine_that_broke_off_does_not_end_the_answer(answer: AnswerReceiver) -> None:
    error = ErrorDetail(message="Ended.", type="server_error", code="engine_failed")
    answer.on_frame(frame(0, end=AnswerEnd(error=error, may_retry=True)), b"")
    with pytest.raises(EngineFailed, match="broke"):
        await answer.read_all()
    assert not answer.ended_by_runner


async def test_only_the_first_failure_counts(answer: AnswerReceiver) -> None:
    answer.fail(EngineFailed("first"))
    answer.fail(EngineFailed("second"))
    with pytest.raises(EngineFailed, match="first"):
        await answer.head()
