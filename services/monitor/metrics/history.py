"""The history of metrics in memory: downsampled as it arrives, queried by series and step."""

import math
import time
from array import array
from collections.abc import Iterable, Iterator

from modelyard.bus import logs
from schemas.errors import BadRequest
from schemas.metric_names import BY_NAME, BY_SAMPLE_NAME, MetricType
from schemas.metrics import HistoryChunk, HistorySeries, MetricsQuery, MetricsReply, Sample, Series
from services.monitor.metrics.ring_buffers import NAN, RESOLUTIONS, Points, Resolution, SeriesHistory

log = logs.get(__name__)

MAX_SERIES = 500
"""About 59 kB each."""
MAX_POINTS = 60_000
"""Numbers in one answer: points of all series, times three."""
DEFAULT_POINTS = 300
EVICTABLE_S = 600.0
"""A series without samples for this long is evicted for a new one when the history is full."""
FULL_S = 60.0
"""How long a full history refuses new series before it searches for one to evict."""
DAY_S = 24 * 3600.0

SeriesKey = tuple[str, ...]
"""The name of a metric and the values of its labels."""
_CHUNK_SERIES = 100


class MetricsHistory:
    def __init__(self) -> None:
        self._series: dict[SeriesKey, SeriesHistory] = {}
        self._labels: dict[SeriesKey, dict[str, str]] = {}
        self._by_name: dict[str, list[SeriesKey]] = {}
        self._full_until = 0.0
        self._started_at: float | None = None
        """The time of the first samples: counters in them may be old."""

    def __len__(self) -> int:
        return len(self._series)

    def add(self, at: float, samples: Iterable[Sample]) -> None:
        """Add samples of one moment; metrics without a history are ignored."""
        for sample in samples:
            metric = BY_SAMPLE_NAME.get(sample.name)
            if metric is None or not metric.has_history:
                continue
            history = self._get_or_create(sample.name, sample.labels, at)
            if history is None:
                continue
            if metric.type is MetricType.COUNTER:
                if not history.last_at and self._started_at is not None and at > self._started_at:
                    history.start_at_zero(at)
                history.add_total(at, sample.value)
            else:
                history.add(at, sample.value)
        self._started_at = at if self._started_at is None else self._started_at

    def _get_or_create(self, name: str, labels: dict[str, str], at: float) -> SeriesHistory | None:
        key = (name, *labels.values())
        history = self._series.get(key)
        if history is None and self._has_room(at):
            history = self._series[key] = SeriesHistory()
            self._labels[key] = labels
            self._by_name.setdefault(name, []).append(key)
        return history

    def _has_room(self, at: float) -> bool:
        if len(self._series) < MAX_SERIES:
            return True
        if at < self._full_until:
            return False
        oldest = min(self._series, key=lambda key: self._series[key].last_at)
        if self._series[oldest].last_at < at - EVICTABLE_S:
            self._remove(oldest)
            return True
        if not self._full_until:
            log.warning("history_full", series=len(self._series))
        self._full_until = at + FULL_S
        return False

    def _remove(self, key: SeriesKey) -> None:
        del self._series[key], self._labels[key]
        self._by_name[key[0]].remove(key)

    def remove_old(self, now: float) -> None:
        for key in [key for key, history in self._series.items() if history.last_at < now - DAY_S]:
            self._remove(key)

    def query(self, query: MetricsQuery, now: float | None = None) -> MetricsReply:
        """BadRequest with a sentence if it cannot be answered."""
        now = time.time() if now is None else now
        until = min(query.until if query.until is not None else now, now)
        since = max(query.since if query.since is not None else until - 3600.0, now - DAY_S)
        _check(query, since, until)
        resolution = next((entry for entry in RESOLUTIONS if since >= now - entry.span_s), RESOLUTIONS[-1])
        step_s = _step_s(query.step_s, since, until, resolution)
        divisors = (entry for entry in RESOLUTIONS if step_s % entry.step_s == 0)
        resolution = max(divisors, key=lambda entry: entry.step_s)
        first, last = int(since // step_s), int(until // step_s)
        keys = [key for name in query.names for key in self._by_name.get(name, ())]
        selected = [key for key in keys if query.labels.items() <= self._labels[key].items()]
        count = last - first + 1
        if 3 * count * len(selected) > MAX_POINTS:
            raise BadRequest(
                f"That is {len(selected)} series of {count} points; ask for a longer step or fewer series.",
                param="step_s",
            )
        series = tuple(self._read(key, resolution, step_s, first, count) for key in selected)
        return MetricsReply(since=float(first * step_s), step_s=float(step_s), series=series)

    def _read(self, key: SeriesKey, resolution: Resolution, step_s: int, first: int, count: int) -> Series:
        history, parts = self._series[key], step_s // resolution.step_s
        history.flush_open()
        points = history.buffers[RESOLUTIONS.index(resolution)].read(first * parts, count * parts)
        if parts > 1:
            points = downsample(points, parts)
        # msgspec writes NaN as null.
        return Series(
            name=key[0],
            labels=self._labels[key],
            min=tuple(points.low),
            avg=tuple(points.mean),
            max=tuple(points.high),
        )

    def chunks(self, resolution: Resolution, since: int, until: int) -> Iterator[HistoryChunk]:
        """The steps from `since` to `until` (unix seconds), in chunks that fit into a message."""
        first, count = since // resolution.step_s, (until - since) // resolution.step_s
        keys = list(self._series)
        for begin in range(0, len(keys), _CHUNK_SERIES):
            read = (
                self._export(key, resolution, first, count) for key in keys[begin : begin + _CHUNK_SERIES]
            )
            series = tuple(exported for exported in read if exported is not None)
            if series:
                yield HistoryChunk(since=float(since), step_s=float(resolution.step_s), series=series)

    def _export(self, key: SeriesKey, resolution: Resolution, first: int, count: int) -> HistorySeries | None:
        history = self._series[key]
        history.flush_open()
        points = history.buffers[RESOLUTIONS.index(resolution)].read(first, count)
        if all(math.isnan(value) for value in points.mean):
            return None
        return HistorySeries(
            name=key[0],
            labels=self._labels[key],
            min=points.low.tolist(),
            avg=points.mean.tolist(),
            max=points.high.tolist(),
        )

    def restore(self, chunk: HistoryChunk) -> None:
        """Add a chunk of an earlier process; minutes also fill the five minutes."""
        resolution = next((entry for entry in RESOLUTIONS if entry.step_s == chunk.step_s), None)
        if resolution is None:
            return
        depth, first = RESOLUTIONS.index(resolution), int(chunk.since // resolution.step_s)
        for series in chunk.series:
            history = self._get_or_create(series.name, series.labels, chunk.since)
            if history is None or BY_SAMPLE_NAME.get(series.name) is None:
                continue
            columns = (series.min, series.avg, series.max)
            points = Points(*(array("d", (NAN if x is None else x for x in column)) for column in columns))
            history.last_at = max(history.last_at, chunk.since + len(points.mean) * resolution.step_s)
            _put(history, depth, first, points)
            if depth + 1 < len(RESOLUTIONS) and resolution is not RESOLUTIONS[0]:
                parts = RESOLUTIONS[depth + 1].step_s // resolution.step_s
                _put(history, depth + 1, first // parts, downsample(points, parts))


def _put(history: SeriesHistory, depth: int, first: int, points: Points) -> None:
    for offset, (low, mean, high) in enumerate(zip(*points, strict=True)):
        if not math.isnan(mean):
            history.buffers[depth].put(first + offset, low, mean, high)


def downsample(points: Points, parts: int) -> Points:
    """Steps that are `parts` times as long."""
    lows, means, highs = ([column[part::parts] for part in range(parts)] for column in points)
    low, high = array("d", map(min, *lows)), array("d", map(max, *highs))
    mean = array("d", [float(f"{sum(step) / parts:.7g}") for step in zip(*means, strict=True)])
    for index, value in enumerate(mean):
        # Where a part is NaN, the others count; `min` and `max` are wrong over NaN.
        if math.isnan(value):
            sampled = [part for part in range(parts) if not math.isnan(means[part][index])]
            if sampled:
                low[index] = min(lows[part][index] for part in sampled)
                mean[index] = sum(means[part][index] for part in sampled) / len(sampled)
                high[index] = max(highs[part][index] for part in sampled)
            else:
                low[index] = high[index] = NAN
    return Points(low, mean, high)


def _check(query: MetricsQuery, since: float, until: float) -> None:
    if not query.names:
        raise BadRequest("Name at least one metric; docs/metrics.md has them all.", param="names")
    for name in query.names:
        metric = BY_NAME.get(name)
        if metric is None:
            raise BadRequest(f"There is no metric {name!r}; docs/metrics.md has them all.", param="names")
        if not metric.has_history:
            raise BadRequest(f"There is no history of {name}.", param="names")
    if not all(math.isfinite(bound) for bound in (since, until)) or since > until:
        raise BadRequest("`since` must be before `until`, and both in unix seconds.", param="since")
    if query.step_s is not None and not 0 < query.step_s <= DAY_S:
        raise BadRequest("`step_s` must be above 0 and at most a day.", param="step_s")


def _step_s(requested: float | None, since: float, until: float, resolution: Resolution) -> int:
    """A multiple of the resolution's step, at least as long as requested."""
    step_s = requested if requested is not None else (until - since) / DEFAULT_POINTS
    return max(1, math.ceil(step_s / resolution.step_s)) * resolution.step_s
