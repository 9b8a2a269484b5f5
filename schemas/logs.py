"""Lines of a process."""

from schemas.record import Record


class LogLine(Record):
    """One line; `at` is when it was read, in unix seconds."""

    at: float
    text: str


class LogBatch(Record):
    """Lines that came close together, in order."""

    model: str
    lines: tuple[LogLine, ...]
