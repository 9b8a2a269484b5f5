"""Metrics of the instance, once a second: the runner's own counts, and those of a busy engine."""

import asyncio
import collections
import math
import re
import time

import msgspec
import nats.errors

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.base import Record
from schemas.errors import YardError
from schemas.metrics import InstanceMetrics
from schemas.requests import Outcome, RequestFinished
from services.supervisor.dialects.base import TokenMeter
from services.supervisor.runner.slot_pool import SlotPool
from services.supervisor.runner.upstream import Upstream

INTERVAL_S = 1.0
ENGINE_INTERVAL_S = 5.0
"""How often a busy engine is queried. An idle one is not: its numbers do not change, and some engines take a
query for work and stay awake."""
_TIMEOUT_S = 2.0
_WINDOW = 5
"""Seconds over which token rates are averaged."""
_NAMES = {
    "llamacpp:requests_processing": "busy",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:prompt_tokens_cached_total": "cached_tokens",
    "llamacpp:tokens_predicted_total": "completion_tokens",
    "llamacpp:spec_decode_num_draft_tokens_total": "draft_tokens",
    "llamacpp:spec_decode_num_accepted_tokens_total": "accepted_draft_tokens",
    "vllm:num_requests_running": "busy",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "completion_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:kv_cache_usage_perc": "kv_used_ratio",
    "vllm:gpu_cache_usage_perc": "kv_used_ratio",
}
"""The second name of vLLM's KV cache usage is that of its older versions."""
_LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)(?:\s+\S+)?")


class TokenRates:
    """The growth of totals over the last seconds."""

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int, int]] = collections.deque(maxlen=_WINDOW + 1)

    def update(self, now: float, prompt: int, completion: int) -> tuple[float, float]:
        """Prompt and generated tokens a second."""
        self._samples.append((now, prompt, completion))
        then, prompt_then, completion_then = self._samples[0]
        passed_s = now - then
        if passed_s <= 0:
            return 0.0, 0.0
        return (
            round(max(prompt - prompt_then, 0) / passed_s, 2),
            round(max(completion - completion_then, 0) / passed_s, 2),
        )


class InstanceMetricsPublisher:
    def __init__(self, bus: Bus, pool: SlotPool, upstream: Upstream) -> None:
        self._bus = bus
        self._pool = pool
        self._upstream = upstream
        self._finished = TokenMeter()
        self._published = TokenMeter()
        self._requests = self._failed = 0
        self._rates = TokenRates()
        self._engine: dict[str, float] = {}
        self._queried_at_work = 0
        pool.on_finished = self._on_finished

    def _on_finished(self, meter: TokenMeter, record: RequestFinished | None) -> None:
        self._finished.add(meter)
        if record is not None:
            self._requests += 1
            self._failed += record.outcome is Outcome.FAILED

    async def run(self) -> None:
        querying = asyncio.create_task(self._query_while_busy())
        due = time.monotonic()
        try:
            while True:
                await self._publish()
                due = max(due + INTERVAL_S, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
        finally:
            querying.cancel()

    async def _publish(self) -> None:
        try:
            metrics = self._metrics()
            tokens = {"node": metrics.node, "instance": metrics.instance}
            await self._bus.publish(subjects.INSTANCE_METRIC, metrics, **tokens)
        except (YardError, nats.errors.Error):
            # The next second has newer values.
            return

    def _metrics(self) -> InstanceMetrics:
        instance, totals = self._pool.record.instance, self._totals()
        now = time.monotonic()
        prompt_s, completion_s = self._rates.update(now, totals.prompt_tokens, totals.completion_tokens)
        engine = dict(self._engine)
        return InstanceMetrics(
            instance=instance.instance,
            model=instance.model,
            node=instance.node,
            sampled_at=time.time(),
            slots=instance.slots,
            busy=self._pool.busy,
            waiting=instance.waiting,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            completion_tokens=totals.completion_tokens,
            prompt_tokens_per_s=prompt_s,
            completion_tokens_per_s=completion_s,
            requests=self._requests,
            failed=self._failed,
            kv_used_ratio=engine.pop("kv_used_ratio", None),
            engine=engine,
        )

    def _totals(self) -> TokenMeter:
        """Totals that never fall, though an estimate from chunks may exceed the engine's final count."""
        now, before = TokenMeter(), self._published
        for meter in (self._finished, *self._pool.meters()):
            now.add(meter)
        self._published = TokenMeter(
            max(now.prompt_tokens, before.prompt_tokens),
            max(now.cached_tokens, before.cached_tokens),
            max(now.completion_tokens, before.completion_tokens),
        )
        return self._published

    async def _query_while_busy(self) -> None:
        """Query the engine every few seconds while it is busy, and once after that."""
        while True:
            await asyncio.sleep(ENGINE_INTERVAL_S)
            work = self._pool.taken + self._pool.busy
            if work != self._queried_at_work:
                # An idle engine has the same number the next time, and is not queried.
                self._queried_at_work = -1 if self._pool.busy else work
                self._engine = await self._query_engine() or self._engine

    async def _query_engine(self) -> dict[str, float]:
        api = self._upstream.api
        text = await self._upstream.get_text(api.metrics_path, _TIMEOUT_S) if api.metrics_path else None
        metrics = parse_metrics(text) if text else {}
        if "kv_used_ratio" not in metrics and api.slots_path:
            slots = await self._upstream.get_text(api.slots_path, _TIMEOUT_S)
            ratio = parse_kv_used_ratio(slots) if slots else None
            metrics |= {} if ratio is None else {"kv_used_ratio": ratio}
        return metrics


def parse_metrics(text: str) -> dict[str, float]:
    """The known metrics of an engine's Prometheus text, under our names; several series are summed up."""
    metrics: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        name = _NAMES.get(match[1]) if match else None
        if match is None or name is None:
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            metrics[name] = metrics.get(name, 0.0) + value
    return metrics


class _NextToken(Record):
    n_decoded: int = 0


class _LlamaSlot(Record):
    n_ctx: int = 0
    n_prompt_tokens: int = 0
    next_token: list[_NextToken] = []  # noqa: RUF012 - msgspec makes a new one each time


def parse_kv_used_ratio(slots: str) -> float | None:
    """The used part of llama.cpp's KV cache, which all its slots share, from its list of slots."""
    try:
        listed = msgspec.json.decode(slots, type=list[_LlamaSlot])
    except msgspec.DecodeError:
        return None
    size = max((slot.n_ctx for slot in listed), default=0)
    used = sum(slot.n_prompt_tokens + sum(token.n_decoded for token in slot.next_token) for slot in listed)
    return min(used / size, 1.0) if size else None
