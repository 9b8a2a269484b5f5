"""A day of one series in bounded memory: min, avg and max of every step, in steps of three lengths."""

import math
from array import array
from typing import NamedTuple

NAN = math.nan


class Level(NamedTuple):
    """Steps of one length, and how many are kept."""

    step_s: int
    steps: int

    @property
    def span_s(self) -> int:
        return self.step_s * self.steps


LEVELS = (Level(10, 720), Level(60, 1440), Level(300, 288))
"""Ten seconds for two hours; minutes and five minutes for a day. Each is a multiple of the one before."""


class Points(NamedTuple):
    """A stretch of steps. NaN: nothing was sampled in that one."""

    low: "array[float]"
    mean: "array[float]"
    high: "array[float]"


class _Open:
    """The step that is being sampled."""

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


class Ring:
    """The last steps of one level; a step's place follows from its time."""

    __slots__ = ("_high", "_low", "_mean", "_newest", "level")

    def __init__(self, level: Level) -> None:
        self.level = level
        empty = array("d", (NAN,)) * level.steps
        self._low, self._mean, self._high = empty, empty[:], empty[:]
        self._newest = -1

    def put(self, index: int, low: float, mean: float, high: float) -> None:
        """A step, also one before the newest; one that is too old is left out."""
        steps = self.level.steps
        if index <= self._newest - steps:
            return
        begun = self._newest if self._newest >= 0 else index
        for skipped in range(max(begun + 1, index - steps + 1), index):
            slot = skipped % steps
            self._low[slot] = self._mean[slot] = self._high[slot] = NAN
        slot = index % steps
        self._low[slot], self._mean[slot], self._high[slot] = low, mean, high
        self._newest = max(self._newest, index)

    def read(self, first: int, count: int) -> Points:
        """`count` steps from `first` on."""
        return Points(*(self._stretch(kept, first, count) for kept in (self._low, self._mean, self._high)))

    def _stretch(self, kept: "array[float]", first: int, count: int) -> "array[float]":
        steps = self.level.steps
        begin = max(first, self._newest - steps + 1)
        end = min(first + count, self._newest + 1)
        if begin >= end:
            return array("d", (NAN,)) * count
        there, slot = end - begin, begin % steps
        head = kept[slot : slot + there]
        found = head + kept[: there - len(head)]
        return array("d", (NAN,)) * (begin - first) + found + array("d", (NAN,)) * (first + count - end)


class Track:
    """One series, sampled about once a second."""

    __slots__ = ("_open", "last_at", "last_total", "rings")

    def __init__(self) -> None:
        self.rings = tuple(Ring(level) for level in LEVELS)
        self._open: list[_Open | None] = [None] * len(LEVELS)
        self.last_at = 0.0
        self.last_total: float | None = None

    def add(self, at: float, value: float) -> None:
        """A sample. One from before the step under way is left out."""
        self.last_at = at
        self._add(0, int(at // LEVELS[0].step_s), value, value, value, 1)

    def begin_at_zero(self, at: float) -> None:
        """A counter that was not there a moment ago: what it has by now is new."""
        self.last_at, self.last_total = at - 1.0, 0.0

    def add_total(self, at: float, total: float) -> None:
        """A sample of a counter: what is kept is its increase a second; a smaller one began anew."""
        before, self.last_total = self.last_total, total
        passed_s, self.last_at = at - self.last_at, at
        if before is not None and passed_s > 0:
            rate = (total - before if total >= before else total) / passed_s
            self._add(0, int(at // LEVELS[0].step_s), rate, rate, rate, 1)

    def _add(self, depth: int, index: int, low: float, total: float, high: float, count: int) -> None:
        under_way = self._open[depth]
        if under_way is None or index > under_way.index:
            if under_way is not None:
                self._close(depth, under_way)
            under_way = self._open[depth] = _Open(index)
        elif index < under_way.index:
            return
        under_way.add(low, total, high, count)

    def _close(self, depth: int, done: _Open) -> None:
        self._show(depth, done)
        if depth + 1 < len(LEVELS):
            longer = LEVELS[depth + 1].step_s // LEVELS[depth].step_s
            self._add(depth + 1, done.index // longer, done.low, done.sum, done.high, done.count)

    def _show(self, depth: int, step: _Open) -> None:
        # Seven digits are more than any sensor has, and make short JSON.
        self.rings[depth].put(step.index, step.low, float(f"{step.sum / step.count:.7g}"), step.high)

    def peek(self) -> None:
        """Have the steps under way show as far as they are."""
        for depth, step in enumerate(self._open):
            if step is not None:
                self._show(depth, step)
        self._peek_longer()

    def _peek_longer(self) -> None:
        """What is under way in a short step belongs to longer ones too."""
        carried: _Open | None = None
        for depth in range(len(LEVELS)):
            step = self._open[depth]
            if carried is not None:
                longer = LEVELS[depth].step_s // LEVELS[depth - 1].step_s
                index = carried.index // longer
                merged = _Open(index)
                merged.add(carried.low, carried.sum, carried.high, carried.count)
                if step is not None and step.index == index:
                    merged.add(step.low, step.sum, step.high, step.count)
                self._show(depth, merged)
                step = merged
            carried = step
