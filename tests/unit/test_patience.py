"""What never answers costs a moment once, and nothing from then on."""

import threading

import pytest

from modelyard.host.threads import CallTimeout, TimedCalls


def test_an_answer_and_an_error_come_as_they_are() -> None:
    patience = TimedCalls()
    assert patience.ask("a", lambda: 1, 5) == 1
    with pytest.raises(ZeroDivisionError):
        patience.ask("a", lambda: 1 // 0, 5)
    with pytest.raises(TimeoutError, match="its own"):
        patience.ask("a", lambda: _raise(TimeoutError("its own")), 5)


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("late", "second"), [(True, "first"), (False, "second")])
def test_who_has_not_answered_is_not_asked_again_until_he_has(late: bool, second: str) -> None:
    patience, may_go, asked = TimedCalls(), threading.Event(), threading.Semaphore(0)

    def slow() -> str:
        asked.release()
        may_go.wait()
        return "first"

    for _ in range(3):
        with pytest.raises(CallTimeout, match="not answer"):
            patience.ask("a", slow, 0.05, late=late)
    assert asked.acquire(timeout=5)
    assert not asked.acquire(blocking=False), "one thread, however often somebody wants to know"
    assert patience.ask("b", lambda: "another", 5) == "another"
    future = patience._under_way["a"]
    may_go.set()
    future.result(5)
    assert patience.ask("a", lambda: "second", 5, late=late) == second
