"""What the instance does, once a second: from our own count, and from the engine while it is at work."""

import asyncio
import collections
import time
from dataclasses import dataclass

import nats.errors

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.errors import YardError
from schemas.metrics import InstanceMetrics
from schemas.requests import Outcome, RequestFinished
from services.supervisor.runner.desk import Desk
from services.supervisor.runner.engine_metrics import read_kv_used_ratio, read_metrics
from services.supervisor.runner.metering import Meter
from services.supervisor.runner.upstream import Upstream

EVERY_S = 1.0
ASK_S = 5.0
"""How often an engine at work is asked for its own metrics. One at rest is left in peace: what it would tell
has not changed, and some take a question for work and stay awake."""
_TIMEOUT_S = 2.0
_WINDOW = 5
"""Seconds over which speeds are told."""


@dataclass
class Tokens:
    """Prompt tokens, those of them from the cache, and written ones."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def add(self, meter: Meter) -> None:
        self.prompt += meter.prompt_tokens
        self.cached += meter.cached_tokens
        self.completion += meter.completion_tokens


class Speeds:
    """How fast totals grew over the last seconds."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int, int]] = collections.deque(maxlen=_WINDOW + 1)

    def at(self, now: float, prompt: int, completion: int) -> tuple[float, float]:
        """Prompt and written tokens a second."""
        self._seen.append((now, prompt, completion))
        then, prompt_then, completion_then = self._seen[0]
        passed_s = now - then
        if passed_s <= 0:
            return 0.0, 0.0
        return (
            round(max(prompt - prompt_then, 0) / passed_s, 2),
            round(max(completion - completion_then, 0) / passed_s, 2),
        )


class Activity:
    """Tells what one instance does."""

    def __init__(self, bus: Bus, desk: Desk, upstream: Upstream) -> None:
        self._bus = bus
        self._desk = desk
        self._upstream = upstream
        self._ended = Tokens()
        self._told = Tokens()
        self._requests = self._failed = 0
        self._speeds = Speeds()
        self._engine: dict[str, float] = {}
        self._asked_at_work = 0
        desk.on_ended = self._on_ended

    def _on_ended(self, meter: Meter, record: RequestFinished | None) -> None:
        self._ended.add(meter)
        if record is not None:
            self._requests += 1
            self._failed += record.outcome is Outcome.FAILED

    async def run(self) -> None:
        """Tell until cancelled."""
        asking = asyncio.create_task(self._ask())
        due = time.monotonic()
        try:
            while True:
                await self._tell()
                due = max(due + EVERY_S, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
        finally:
            asking.cancel()

    async def _tell(self) -> None:
        try:
            metrics = self._now()
            tokens = {"node": metrics.node, "instance": metrics.instance}
            await self._bus.publish(subjects.INSTANCE_METRIC, metrics, **tokens)
        except (YardError, nats.errors.Error):
            # The next second says more than this one.
            return

    def _now(self) -> InstanceMetrics:
        instance, told = self._desk.life.instance, self._totals()
        prompt_s, completion_s = self._speeds.at(time.monotonic(), told.prompt, told.completion)
        engine = dict(self._engine)
        return InstanceMetrics(
            instance=instance.instance,
            model=instance.model,
            node=instance.node,
            sampled_at=time.time(),
            slots=instance.slots,
            busy=self._desk.busy,
            waiting=instance.waiting,
            prompt_tokens=told.prompt,
            cached_tokens=told.cached,
            completion_tokens=told.completion,
            prompt_tokens_per_s=prompt_s,
            completion_tokens_per_s=completion_s,
            requests=self._requests,
            failed=self._failed,
            kv_used_ratio=engine.pop("kv_used_ratio", None),
            engine=engine,
        )

    def _totals(self) -> Tokens:
        """A total never falls, though what was counted from chunks may be more than an engine's last word."""
        now = Tokens(self._ended.prompt, self._ended.cached, self._ended.completion)
        for meter in self._desk.meters():
            now.add(meter)
        self._told = Tokens(
            max(now.prompt, self._told.prompt),
            max(now.cached, self._told.cached),
            max(now.completion, self._told.completion),
        )
        return self._told

    async def _ask(self) -> None:
        """Ask the engine every few seconds while there is work, and once after it."""
        while True:
            await asyncio.sleep(ASK_S)
            work = self._desk.taken + self._desk.busy
            if work != self._asked_at_work:
                # At rest the same number comes again, and nobody is asked.
                self._asked_at_work = -1 if self._desk.busy else work
                self._engine = await self._engine_says() or self._engine

    async def _engine_says(self) -> dict[str, float]:
        api = self._upstream.api
        text = await self._upstream.text(api.metrics, _TIMEOUT_S) if api.metrics else None
        found = read_metrics(text) if text else {}
        if "kv_used_ratio" not in found and api.slots:
            slots = await self._upstream.text(api.slots, _TIMEOUT_S)
            ratio = read_kv_used_ratio(slots) if slots else None
            found |= {} if ratio is None else {"kv_used_ratio": ratio}
        return found
