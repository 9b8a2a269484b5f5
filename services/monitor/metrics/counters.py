"""Counters, histograms and values of the last minutes, each with a bounded number of series."""

import bisect
from collections.abc import Iterator
from typing import Any

from schemas.metrics import Sample

OTHER = "other"
MAX_SERIES = 200
"""Series of one metric; further label values are counted together, as `other`."""
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class DurationHistogram:
    __slots__ = ("count", "counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds
        self.count += 1

    def merge(self, other: "DurationHistogram") -> None:
        self.counts = [own + others for own, others in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        self.count += other.count

    def quantile(self, share: float) -> float | None:
        """Interpolated within its bucket, as Prometheus does; None without durations."""
        if not self.count:
            return None
        rank, below, lower = share * self.count, 0, 0.0
        for upper, count in zip(BUCKETS_S, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below, lower = below + count, upper
        return BUCKETS_S[-1]

    def samples(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        """In Prometheus' form: a bucket counts everything at or below its bound."""
        total = 0
        for bound, count in zip((*BUCKETS_S, None), self.counts, strict=True):
            total += count
            le = "+Inf" if bound is None else f"{bound:g}"
            yield Sample(name=f"{name}_bucket", value=float(total), labels={**labels, "le": le})
        yield Sample(name=f"{name}_sum", value=self.sum, labels=labels)
        yield Sample(name=f"{name}_count", value=float(self.count), labels=labels)


class _Family:
    """The series of one metric by the values of its labels."""

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._overflow = (OTHER,) * len(labels)

    def _key(self, values: tuple[str, ...], series: dict[tuple[str, ...], Any]) -> tuple[str, ...]:
        return values if values in series or len(series) < MAX_SERIES else self._overflow

    def _labeled(self, values: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self._labels, values, strict=True))


class LabeledCounter(_Family):
    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, amount: float = 1.0) -> None:
        key = self._key(values, self._counts)
        self._counts[key] = self._counts.get(key, 0.0) + amount

    def reset(self) -> None:
        self._counts = dict.fromkeys(self._counts, 0.0)

    def samples(self) -> Iterator[Sample]:
        for values, count in self._counts.items():
            yield Sample(name=self.name, value=count, labels=self._labeled(values))


class LabeledHistogram(_Family):
    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._histograms: dict[tuple[str, ...], DurationHistogram] = {}

    def add(self, *values: str, seconds: float) -> None:
        key = self._key(values, self._histograms)
        self._histograms.setdefault(key, DurationHistogram()).add(seconds)

    def reset(self) -> None:
        self._histograms = {key: DurationHistogram() for key in self._histograms}

    def samples(self) -> Iterator[Sample]:
        for values, histogram in self._histograms.items():
            yield from histogram.samples(self.name, self._labeled(values))


class RecentQuantiles:
    """Quantiles of the durations of the last minutes, by one label."""

    MINUTES = 5

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self._label = label
        self._by_minute: dict[int, dict[str, DurationHistogram]] = {}

    def add(self, value: str, at: float, seconds: float) -> None:
        minute = self._by_minute.setdefault(int(at // 60), {})
        if value not in minute and len(minute) >= MAX_SERIES:
            value = OTHER
        minute.setdefault(value, DurationHistogram()).add(seconds)

    def samples(self, now: float) -> Iterator[Sample]:
        _drop_outside(self._by_minute, now, self.MINUTES)
        merged: dict[str, DurationHistogram] = {}
        for by_value in self._by_minute.values():
            for value, histogram in by_value.items():
                merged.setdefault(value, DurationHistogram()).merge(histogram)
        for value, histogram in merged.items():
            for share in (0.5, 0.95, 0.99):
                seconds = histogram.quantile(share)
                if seconds is not None:
                    labels = {self._label: value, "quantile": f"{share:g}"}
                    yield Sample(name=self.name, value=seconds, labels=labels)


class RecentErrorRatio:
    """The share of failures in the last minutes, by one label."""

    MINUTES = 5
    MIN_COUNT = 10
    """With fewer requests the ratio is not significant."""

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self._label = label
        self._by_minute: dict[int, dict[str, tuple[int, int]]] = {}
        """Requests and failures, by minute and value."""

    def add(self, value: str, at: float, *, failed: bool) -> None:
        minute = self._by_minute.setdefault(int(at // 60), {})
        if value not in minute and len(minute) >= MAX_SERIES:
            value = OTHER
        count, failures = minute.get(value, (0, 0))
        minute[value] = (count + 1, failures + failed)

    def samples(self, now: float) -> Iterator[Sample]:
        _drop_outside(self._by_minute, now, self.MINUTES)
        merged: dict[str, tuple[int, int]] = {}
        for by_value in self._by_minute.values():
            for value, (count, failures) in by_value.items():
                before = merged.get(value, (0, 0))
                merged[value] = (before[0] + count, before[1] + failures)
        for value, (count, failures) in merged.items():
            if count >= self.MIN_COUNT:
                yield Sample(name=self.name, value=failures / count, labels={self._label: value})


def _drop_outside(by_minute: dict[int, Any], now: float, minutes: int) -> None:
    """Drop minutes outside the window, also those that a wrong clock puts in the future."""
    newest = int(now // 60)
    for minute in [minute for minute in by_minute if not newest - minutes < minute <= newest + 1]:
        del by_minute[minute]
