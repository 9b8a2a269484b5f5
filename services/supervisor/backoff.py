"""What a failure costs a model: a pause before the next try, and a long rest once they come in a row."""

from typing import NamedTuple

from modelyard.backoff import exponential_s
from schemas.instances import Instance

AFTER_CRASH_S = 1.0
"""After a crash of a model that had proved itself: time for the gateways to give up what it was answering."""
FIRST_S = 2.0
PROVEN_S = 120.0
"""An instance that was ready for so long has proved itself: its end begins a new row of failures."""
OPENS_AFTER = 5
"""So many failures in a row open the circuit."""
OPEN_S = 600.0
"""Then one try is made after so long."""


class Failure(NamedTuple):
    """What the record of a failed instance says of its future."""

    failures: int
    """In a row, this one included; 0: it had proved itself before."""
    retry_at: float
    """Unix seconds before which it is not tried again."""
    circuit_open: bool
    error: str


def failure(last: Instance, error: str, now: float) -> Failure:
    """What follows from the failure of `last` at `now` (unix seconds)."""
    count = failures(last.failures, None if last.ready_at is None else now - last.ready_at)
    opens = count >= OPENS_AFTER
    told = f"{_rest(last.model, count)} The last error: {error}" if opens else error
    return Failure(count, now + pause_s(count), opens, told)


def failures(before: int, ready_s: float | None) -> int:
    """How many failures in a row it is now, of one that was ready for `ready_s`, or never."""
    return 0 if ready_s is not None and ready_s >= PROVEN_S else before + 1


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1 (it had proved itself), 2, 4, 8, 16, then 600."""
    if failures >= OPENS_AFTER:
        return OPEN_S
    return exponential_s(failures, FIRST_S) if failures else AFTER_CRASH_S


def _rest(model: str, count: int) -> str:
    return (
        f"{model} failed {count} times in a row and is left alone for {OPEN_S / 60:.0f} minutes; "
        f"`yard start {model}` or an edit of the model tries again at once."
    )
