"""The history of every series that is kept, thinned as it comes, and questions about it."""

import math
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence

from modelyard.bus import logs
from schemas.errors import BadRequest
from schemas.metric_names import BY_NAME, BY_SAMPLE_NAME, MetricType
from schemas.metrics import HistoryChunk, HistorySeries, MetricsAnswer, MetricsQuery, Sample, Series
from services.monitor.metrics.rings import LEVELS, NAN, Level, Points, Track

log = logs.get(__name__)

MOST_SERIES = 500
"""About 59 kB each."""
MOST_POINTS = 60_000
"""Numbers in one answer: points of all series, times three."""
ABOUT_POINTS = 300
SILENT_S = 600.0
"""A series that was silent for so long makes room for a new one where there are too many."""
FULL_S = 60.0
"""How long nothing new is taken before it is looked for room again."""
DAY_S = 24 * 3600.0

Key = tuple[str, ...]
"""A metric's name and the values of its labels."""


class History:
    """What the samples of a day said."""

    def __init__(self) -> None:
        self._tracks: dict[Key, Track] = {}
        self._labels: dict[Key, dict[str, str]] = {}
        self._by_name: dict[str, list[Key]] = {}
        self._full_until = 0.0
        self._begun_at: float | None = None
        """Of the first samples: counters that were there by then may have been counting for long."""

    def __len__(self) -> int:
        return len(self._tracks)

    def observe(self, at: float, samples: Iterable[Sample]) -> None:
        """Samples of one moment; those whose history is not kept are passed over."""
        for sample in samples:
            metric = BY_SAMPLE_NAME.get(sample.name)
            if metric is None or not metric.kept:
                continue
            track = self._track(sample.name, sample.labels, at)
            if track is None:
                continue
            if metric.type is MetricType.COUNTER:
                if not track.last_at and self._begun_at is not None and at > self._begun_at:
                    track.begin_at_zero(at)
                track.add_total(at, sample.value)
            else:
                track.add(at, sample.value)
        self._begun_at = at if self._begun_at is None else self._begun_at

    def _track(self, name: str, labels: dict[str, str], at: float) -> Track | None:
        key = (name, *labels.values())
        track = self._tracks.get(key)
        if track is None and self._has_room(at):
            track = self._tracks[key] = Track()
            self._labels[key] = labels
            self._by_name.setdefault(name, []).append(key)
        return track

    def _has_room(self, at: float) -> bool:
        if len(self._tracks) < MOST_SERIES:
            return True
        if at < self._full_until:
            return False
        oldest = min(self._tracks, key=lambda key: self._tracks[key].last_at)
        if self._tracks[oldest].last_at < at - SILENT_S:
            self._forget(oldest)
            return True
        if not self._full_until:
            log.warning("history_full", series=len(self._tracks))
        self._full_until = at + FULL_S
        return False

    def _forget(self, key: Key) -> None:
        del self._tracks[key], self._labels[key]
        self._by_name[key[0]].remove(key)

    def forget_old(self, now: float) -> None:
        """Let go of series that said nothing for a day."""
        for key in [key for key, track in self._tracks.items() if track.last_at < now - DAY_S]:
            self._forget(key)

    def query(self, query: MetricsQuery, now: float | None = None) -> MetricsAnswer:
        """BadRequest with a sentence if it cannot be answered."""
        now = time.time() if now is None else now
        until = min(query.until if query.until is not None else now, now)
        since = max(query.since if query.since is not None else until - 3600.0, now - DAY_S)
        _check(query, since, until)
        level = next((one for one in LEVELS if since >= now - one.span_s), LEVELS[-1])
        step_s = _step_s(query.step_s, since, until, level)
        level = max((one for one in LEVELS if step_s % one.step_s == 0), key=lambda one: one.step_s)
        first, last = int(since // step_s), int(until // step_s)
        keys = [key for name in query.names for key in self._by_name.get(name, ())]
        wanted = [key for key in keys if query.labels.items() <= self._labels[key].items()]
        count = last - first + 1
        if 3 * count * len(wanted) > MOST_POINTS:
            raise BadRequest(
                f"That is {len(wanted)} series of {count} points; ask for a longer step or for fewer series.",
                param="step_s",
            )
        series = tuple(self._series(key, level, step_s, first, count) for key in wanted)
        return MetricsAnswer(since=float(first * step_s), step_s=float(step_s), series=series)

    def _series(self, key: Key, level: Level, step_s: int, first: int, count: int) -> Series:
        track, parts = self._tracks[key], step_s // level.step_s
        track.peek()
        points = track.rings[LEVELS.index(level)].read(first * parts, count * parts)
        if parts > 1:
            points = merged(points, parts)
        # msgspec writes NaN as null.
        return Series(
            name=key[0],
            labels=self._labels[key],
            min=tuple(points.low),
            avg=tuple(points.mean),
            max=tuple(points.high),
        )

    def chunk(self, level: Level, since: int, until: int) -> Iterator[HistoryChunk]:
        """The closed steps from `since` to `until` (unix seconds), in pieces that fit into a message."""
        first, count = since // level.step_s, (until - since) // level.step_s
        keys = list(self._tracks)
        for begin in range(0, len(keys), _SERIES_A_CHUNK):
            pieces = (self._piece(key, level, first, count) for key in keys[begin : begin + _SERIES_A_CHUNK])
            told = tuple(piece for piece in pieces if piece is not None)
            if told:
                yield HistoryChunk(since=float(since), step_s=float(level.step_s), series=told)

    def _piece(self, key: Key, level: Level, first: int, count: int) -> HistorySeries | None:
        self._tracks[key].peek()
        points = self._tracks[key].rings[LEVELS.index(level)].read(first, count)
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
        """Take back what `chunk` told; minutes tell the five minutes too."""
        level = next((one for one in LEVELS if one.step_s == chunk.step_s), None)
        if level is None:
            return
        depth, first = LEVELS.index(level), int(chunk.since // level.step_s)
        for piece in chunk.series:
            track = self._track(piece.name, piece.labels, chunk.since)
            if track is None or BY_SAMPLE_NAME.get(piece.name) is None:
                continue
            points = Points(*(_array(values) for values in (piece.min, piece.avg, piece.max)))
            track.last_at = max(track.last_at, chunk.since + len(points.mean) * level.step_s)
            _put(track, depth, first, points)
            if depth + 1 < len(LEVELS) and level is not LEVELS[0]:
                parts = LEVELS[depth + 1].step_s // level.step_s
                _put(track, depth + 1, first // parts, merged(points, parts))


_SERIES_A_CHUNK = 100


def _put(track: Track, depth: int, first: int, points: Points) -> None:
    for offset, (low, mean, high) in enumerate(zip(*points, strict=True)):
        if not math.isnan(mean):
            track.rings[depth].put(first + offset, low, mean, high)


def _array(values: Sequence[float | None]) -> "array[float]":
    return array("d", (NAN if value is None else value for value in values))


def merged(points: Points, parts: int) -> Points:
    """Steps that are `parts` times as long."""
    lows, means, highs = ([kept[part::parts] for part in range(parts)] for kept in points)
    low, high = array("d", map(min, *lows)), array("d", map(max, *highs))
    mean = array("d", [float(f"{sum(column) / parts:.7g}") for column in zip(*means, strict=True)])
    for index, value in enumerate(mean):
        # Where a part is missing, the others tell; `min` and `max` go wrong over NaN.
        if math.isnan(value):
            known = [part for part in range(parts) if not math.isnan(means[part][index])]
            if known:
                low[index] = min(lows[part][index] for part in known)
                mean[index] = sum(means[part][index] for part in known) / len(known)
                high[index] = max(highs[part][index] for part in known)
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
        if not metric.kept:
            raise BadRequest(f"Of {name} no history is kept.", param="names")
    if not all(math.isfinite(bound) for bound in (since, until)) or since > until:
        raise BadRequest("`since` must be before `until`, and both in unix seconds.", param="since")
    if query.step_s is not None and not 0 < query.step_s <= DAY_S:
        raise BadRequest("`step_s` must be above 0 and at most a day.", param="step_s")


def _step_s(wanted: float | None, since: float, until: float, level: Level) -> int:
    """A multiple of the level's step, at least as long as wanted."""
    step_s = wanted if wanted is not None else (until - since) / ABOUT_POINTS
    return max(1, math.ceil(step_s / level.step_s)) * level.step_s
