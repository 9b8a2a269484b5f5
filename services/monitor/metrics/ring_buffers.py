"""Ring buffers for a day of one series: min, avg and max of every step, at three resolutions."""

import math
from array import array
from typing import NamedTuple

NAN = math.nan


class Resolution(NamedTuple):
    """The length of a step and the number of stored steps."""

    step_s: int
    steps: int

    @property
    def span_s(self) -> int:
        return self.step_s * self.steps


RESOLUTIONS = (Resolution(10, 720), Resolution(60, 1440), Resolution(300, 288))
"""Ten seconds for two hours, one and five minutes for a day. Each is a multiple of the one before."""


class Points(NamedTuple):
    """Consecutive steps; NaN: no sample in that step."""

    low: "array[float]"
    mean: "array[float]"
    high: "array[float]"


class _OpenStep:
    __slots__ = ("count", "high", "index", "low", "sum")

    def __init__(self, index: int) -> None:
        self.index = index
        self.low, self.high = math.inf, -math.inf
        self.sum = 0.0
        self.count = 0

    def add(self, low: float, total: float, high: float, count: int) -> None:
        self.low = low if low < self.low else self.low
        self.high = high if high > self.high else self.high
        self.sum += total
        self.count += count


class RingBuffer:
    """The last steps at one resolution; the slot of a step follows from its time."""

    __slots__ = ("_high", "_low", "_mean", "_newest", "resolution")

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        empty = array("d", (NAN,)) * resolution.steps
        self._low, self._mean, self._high = empty, empty[:], empty[:]
        self._newest = -1

    def put(self, index: int, low: float, mean: float, high: float) -> None:
        """Store a step, in any order; one older than the buffer is dropped."""
        steps = self.resolution.steps
        if index <= self._newest - steps:
            return
        first = self._newest if self._newest >= 0 else index
        for skipped in range(max(first + 1, index - steps + 1), index):
            slot = skipped % steps
            self._low[slot] = self._mean[slot] = self._high[slot] = NAN
        slot = index % steps
        self._low[slot], self._mean[slot], self._high[slot] = low, mean, high
        self._newest = max(self._newest, index)

    def read(self, first: int, count: int) -> Points:
        columns = (self._low, self._mean, self._high)
        return Points(*(self._slice(column, first, count) for column in columns))

    def _slice(self, column: "array[float]", first: int, count: int) -> "array[float]":
        steps = self.resolution.steps
        begin = max(first, self._newest - steps + 1)
        end = min(first + count, self._newest + 1)
        if begin >= end:
            return array("d", (NAN,)) * count
        length, slot = end - begin, begin % steps
        head = column[slot : slot + length]
        stored = head + column[: length - len(head)]
        return array("d", (NAN,)) * (begin - first) + stored + array("d", (NAN,)) * (first + count - end)


class SeriesHistory:
    """One series at all resolutions, sampled about once a second."""

    __slots__ = ("_open", "buffers", "last_at", "last_total")

    def __init__(self) -> None:
        self.buffers = tuple(RingBuffer(resolution) for resolution in RESOLUTIONS)
        self._open: list[_OpenStep | None] = [None] * len(RESOLUTIONS)
        self.last_at = 0.0
        self.last_total: float | None = None

    def add(self, at: float, value: float) -> None:
        """Add a sample; one from before the open step is dropped."""
        self.last_at = at
        self._add(0, int(at // RESOLUTIONS[0].step_s), value, value, value, 1)

    def start_at_zero(self, at: float) -> None:
        """Take a new counter to have been 0 a second ago."""
        self.last_at, self.last_total = at - 1.0, 0.0

    def add_total(self, at: float, total: float) -> None:
        """Add a sample of a counter as its increase per second; a smaller one is a reset."""
        before, self.last_total = self.last_total, total
        passed_s, self.last_at = at - self.last_at, at
        if before is not None and passed_s > 0:
            rate = (total - before if total >= before else total) / passed_s
            self._add(0, int(at // RESOLUTIONS[0].step_s), rate, rate, rate, 1)

    def _add(self, depth: int, index: int, low: float, total: float, high: float, count: int) -> None:
        step = self._open[depth]
        if step is None or index > step.index:
            if step is not None:
                self._close(depth, step)
            step = self._open[depth] = _OpenStep(index)
        elif index < step.index:
            return
        step.add(low, total, high, count)

    def _close(self, depth: int, step: _OpenStep) -> None:
        self._store(depth, step)
        if depth + 1 < len(RESOLUTIONS):
            longer = RESOLUTIONS[depth + 1].step_s // RESOLUTIONS[depth].step_s
            self._add(depth + 1, step.index // longer, step.low, step.sum, step.high, step.count)

    def _store(self, depth: int, step: _OpenStep) -> None:
        # Seven digits are more than any sensor has and keep the JSON short.
        self.buffers[depth].put(step.index, step.low, float(f"{step.sum / step.count:.7g}"), step.high)

    def flush_open(self) -> None:
        """Store the open steps as they are, so that `read` has them."""
        for depth, step in enumerate(self._open):
            if step is not None:
                self._store(depth, step)
        self._flush_longer()

    def _flush_longer(self) -> None:
        """The samples of an open short step belong to the longer ones too."""
        carried: _OpenStep | None = None
        for depth in range(len(RESOLUTIONS)):
            step = self._open[depth]
            if carried is not None:
                longer = RESOLUTIONS[depth].step_s // RESOLUTIONS[depth - 1].step_s
                index = carried.index // longer
                merged = _OpenStep(index)
                merged.add(carried.low, carried.sum, carried.high, carried.count)
                if step is not None and step.index == index:
                    merged.add(step.low, step.sum, step.high, step.count)
                self._store(depth, merged)
                step = merged
            carried = step
