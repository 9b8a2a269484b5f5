"""Counters and histograms whose number of series is bounded, whatever names come in."""

import bisect
from collections.abc import Iterator
from typing import Any

from schemas.metrics import Sample

OTHER = "other"
MOST = 200
"""Series of one metric; what comes after is counted together, under `other`."""
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Histogram:
    """Durations by bucket."""

    __slots__ = ("count", "counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds
        self.count += 1

    def merge(self, other: "Histogram") -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        self.count += other.count

    def quantile(self, share: float) -> float | None:
        """Interpolated within its bucket, as Prometheus does; None if nothing was counted."""
        if not self.count:
            return None
        rank, below, lower = share * self.count, 0, 0.0
        for upper, count in zip(BUCKETS_S, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below, lower = below + count, upper
        return BUCKETS_S[-1]

    def samples(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        """As Prometheus tells it: every bucket counts what is at or below its bound."""
        total = 0
        for bound, count in zip((*BUCKETS_S, None), self.counts, strict=True):
            total += count
            le = "+Inf" if bound is None else f"{bound:g}"
            yield Sample(name=f"{name}_bucket", value=float(total), labels={**labels, "le": le})
        yield Sample(name=f"{name}_sum", value=self.sum, labels=labels)
        yield Sample(name=f"{name}_count", value=float(self.count), labels=labels)


class _Family:
    """One metric's series by the values of its labels."""

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._overflow = (OTHER,) * len(labels)

    def _key(self, values: tuple[str, ...], known: dict[tuple[str, ...], object]) -> tuple[str, ...]:
        return values if values in known or len(known) < MOST else self._overflow

    def _named(self, values: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self._labels, values, strict=True))


class Counter(_Family):
    """A counter by labels."""

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, amount: float = 1.0) -> None:
        key = self._key(values, self._counts)  # type: ignore[arg-type]  # it looks at the keys alone
        self._counts[key] = self._counts.get(key, 0.0) + amount

    def begin_anew(self) -> None:
        """At 0, with the series that there are."""
        self._counts = dict.fromkeys(self._counts, 0.0)

    def samples(self) -> Iterator[Sample]:
        for values, count in self._counts.items():
            yield Sample(name=self.name, value=count, labels=self._named(values))


class Histograms(_Family):
    """A histogram by labels."""

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._by_labels: dict[tuple[str, ...], Histogram] = {}

    def add(self, *values: str, seconds: float) -> None:
        key = self._key(values, self._by_labels)  # type: ignore[arg-type]  # it looks at the keys alone
        self._by_labels.setdefault(key, Histogram()).add(seconds)

    def begin_anew(self) -> None:
        """At 0, with the series that there are."""
        self._by_labels = {key: Histogram() for key in self._by_labels}

    def samples(self) -> Iterator[Sample]:
        for values, histogram in self._by_labels.items():
            yield from histogram.samples(self.name, self._named(values))


class Recent:
    """Durations of the last minutes, by one label."""

    MINUTES = 5

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self._label = label
        self._by_minute: dict[int, dict[str, Histogram]] = {}

    def add(self, value: str, at: float, seconds: float) -> None:
        minute = self._by_minute.setdefault(int(at // 60), {})
        if value not in minute and len(minute) >= MOST:
            value = OTHER
        minute.setdefault(value, Histogram()).add(seconds)

    def samples(self, now: float) -> Iterator[Sample]:
        """p50, p95 and p99 of what was in the last minutes."""
        _forget(self._by_minute, now, self.MINUTES)
        merged: dict[str, Histogram] = {}
        for by_value in self._by_minute.values():
            for value, histogram in by_value.items():
                merged.setdefault(value, Histogram()).merge(histogram)
        for value, histogram in merged.items():
            for share in (0.5, 0.95, 0.99):
                seconds = histogram.quantile(share)
                if seconds is not None:
                    labels = {self._label: value, "quantile": f"{share:g}"}
                    yield Sample(name=self.name, value=seconds, labels=labels)


class Outcomes:
    """What share of the last minutes failed, by one label."""

    MINUTES = 5
    LEAST = 10
    """Of fewer requests one failure says little."""

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self._label = label
        self._by_minute: dict[int, dict[str, tuple[int, int]]] = {}
        """All and failed ones, by minute and value."""

    def add(self, value: str, at: float, *, failed: bool) -> None:
        minute = self._by_minute.setdefault(int(at // 60), {})
        if value not in minute and len(minute) >= MOST:
            value = OTHER
        count, failures = minute.get(value, (0, 0))
        minute[value] = (count + 1, failures + failed)

    def samples(self, now: float) -> Iterator[Sample]:
        _forget(self._by_minute, now, self.MINUTES)
        merged: dict[str, tuple[int, int]] = {}
        for by_value in self._by_minute.values():
            for value, (count, failures) in by_value.items():
                before = merged.get(value, (0, 0))
                merged[value] = (before[0] + count, before[1] + failures)
        for value, (count, failures) in merged.items():
            if count >= self.LEAST:
                yield Sample(name=self.name, value=failures / count, labels={self._label: value})


def _forget(by_minute: dict[int, Any], now: float, minutes: int) -> None:
    """What is long past, and what a wrong clock says is yet to come: it would never be past."""
    newest = int(now // 60)
    for minute in [one for one in by_minute if not newest - minutes < one <= newest + 1]:
        del by_minute[minute]
