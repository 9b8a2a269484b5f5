"""Requests that ended, counted by model, node and key."""

import collections
from collections.abc import Iterator

from schemas.metrics import Sample
from schemas.requests import Outcome, RequestFinished
from services.monitor.metrics.counting import Counter, Histograms, Outcomes, Recent

_MOST_TOKENS = 2**40
"""More in one request is a fault of the engine."""
_LONGEST_S = 1e7
"""Longer took no request; clocks may be wrong."""


_REMEMBERED = 4096
"""Requests of which a second report is known to be one."""


class Requests:
    """What is counted of them since the monitor started."""

    def __init__(self) -> None:
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._ended = Counter("yard_requests_total", "model", "node", "outcome")
        self._errors = Counter("yard_request_errors_total", "model", "code")
        self._tokens = Counter("yard_tokens_total", "model", "node", "kind")
        self._of_key = Counter("yard_key_requests_total", "key", "outcome")
        self._tokens_of_key = Counter("yard_key_tokens_total", "key", "kind")
        self._duration = Histograms("yard_request_duration_seconds", "model", "node")
        self._first_token = Histograms("yard_request_first_token_seconds", "model", "node")
        self._queue = Histograms("yard_request_queue_seconds", "model", "node")
        self._duration_of_key = Histograms("yard_key_request_duration_seconds", "key")
        self._recent_duration = Recent("yard_request_duration_quantile_seconds", "model")
        self._recent_first_token = Recent("yard_request_first_token_quantile_seconds", "model")
        self._outcomes = Outcomes("yard_request_error_ratio", "model")
        self._recent_queue = Recent("yard_request_queue_quantile_seconds", "model")

    def add(self, record: RequestFinished) -> None:
        """Count one; each once, though two sides may report it."""
        if record.request in self._seen:
            return
        self._seen[record.request] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        model, node, outcome = record.model, record.node or "", record.outcome.value
        self._ended.add(model, node, outcome)
        if record.outcome is not Outcome.CANCELLED:
            self._outcomes.add(model, record.finished_at, failed=record.outcome is Outcome.FAILED)
        if record.error is not None:
            self._errors.add(model, record.error.code)
        for kind, tokens in _tokens(record):
            self._tokens.add(model, node, kind, amount=tokens)
        if record.key is not None:
            self._add_to_key(record.key, record)
        if record.outcome is Outcome.OK:
            duration_s = _duration_s(record)
            self._duration.add(model, node, seconds=duration_s)
            self._recent_duration.add(model, record.finished_at, duration_s)
        if record.first_token_ms is not None:
            first_s = _possible_s(record.first_token_ms / 1000)
            self._first_token.add(model, node, seconds=first_s)
            self._recent_first_token.add(model, record.finished_at, first_s)
        if record.queue_ms is not None:
            queue_s = _possible_s(record.queue_ms / 1000)
            self._queue.add(model, node, seconds=queue_s)
            self._recent_queue.add(model, record.finished_at, queue_s)

    def _add_to_key(self, key: str, record: RequestFinished) -> None:
        self._of_key.add(key, record.outcome.value)
        for kind, tokens in _tokens(record):
            self._tokens_of_key.add(key, kind, amount=tokens)
        if record.outcome is Outcome.OK:
            self._duration_of_key.add(key, seconds=_duration_s(record))

    def begin_anew(self) -> None:
        """Count from 0: what was counted so far, the monitor before us has told. The last minutes stay."""
        for family in self._totals():
            family.begin_anew()

    def _totals(self) -> tuple[Counter | Histograms, ...]:
        counters = (self._ended, self._errors, self._tokens, self._of_key, self._tokens_of_key)
        histograms = (self._duration, self._first_token, self._queue, self._duration_of_key)
        return (*counters, *histograms)

    def samples(self, now: float) -> Iterator[Sample]:
        """Of now."""
        for family in self._totals():
            yield from family.samples()
        for recent in (self._recent_duration, self._recent_first_token, self._recent_queue):
            yield from recent.samples(now)
        yield from self._outcomes.samples(now)


def _duration_s(record: RequestFinished) -> float:
    return _possible_s(record.finished_at - record.queued_at)


def _possible_s(seconds: float) -> float:
    """No sum of times ever falls, or leaves what numbers can say."""
    return min(max(seconds, 0.0), _LONGEST_S)


def _tokens(record: RequestFinished) -> Iterator[tuple[str, int]]:
    counted = (
        ("prompt", record.prompt_tokens),
        ("cached", record.cached_tokens),
        ("completion", record.completion_tokens),
    )
    return ((kind, min(tokens, _MOST_TOKENS)) for kind, tokens in counted if tokens > 0)
