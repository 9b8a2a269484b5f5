"""A hanging call costs its timeout once, and nothing from then on."""

import threading

import pytest

from modelyard.host.threads import CallTimeout, TimedCalls


def test_a_result_and_an_error_pass_through() -> None:
    calls = TimedCalls()
    assert calls.call("a", lambda: 1, 5) == 1
    with pytest.raises(ZeroDivisionError):
        calls.call("a", lambda: 1 // 0, 5)
    with pytest.raises(TimeoutError, match="its own"):
        calls.call("a", lambda: _raise(TimeoutError("its own")), 5)


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("late", "second"), [(True, "first"), (False, "second")])
def test_a_running_call_is_not_started_again_until_it_returns(late: bool, second: str) -> None:
    calls, may_return, started = TimedCalls(), threading.Event(), threading.Semaphore(0)

    def slow() -> str:
        started.release()
        may_return.wait()
        return "first"

    for _ in range(3):
        with pytest.raises(CallTimeout, match="not answer"):
            calls.call("a", slow, 0.05, late=late)
    assert started.acquire(timeout=5)
    assert not started.acquire(blocking=False), "one thread, however often it is called"
    assert calls.call("b", lambda: "another", 5) == "another"
    future = calls._running["a"]
    may_return.set()
    future.result(5)
    assert calls.call("a", lambda: "second", 5, late=late) == second
