"""Where the files of a model that only the hub has would fit, as the hub's own listing tells."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.base import Format
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable, YardError
from schemas.hub import AskOffer, Fit, Offer, OfferedChoice
from schemas.models import ModelSource, ModelSpec
from schemas.placing import Need, Option

FRESH_S = 60.0
"""How long an answer counts, also a refusal."""
TIMEOUT_S = 8.0
"""How long somebody who wants to know waits for it."""
AGAIN_S = 3.0
"""How long it counts that nobody answered."""
PASSING = (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable)
"""Errors of a service that starts, or is away for a moment."""


class HubWays(NamedTuple):
    """What the hub said: the ways by node, or why there are none."""

    options: Mapping[str, Option] = {}
    """Where it fits; a node without one and without a refusal is one of which nothing is known."""
    refusals: Mapping[str, str] = {}
    """Why it does not fit on the other nodes."""
    size_bytes: int | None = None
    problem: str | None = None
    passes: bool = False
    """The problem is that nobody answers just now."""


class Hub:
    """Asks in the background: the hub may take a while."""

    def __init__(self, bus: Bus, tasks: Tasks, on_answer: Callable[[], None]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._on_answer = on_answer
        self._told: dict[tuple[str, str], tuple[HubWays, float]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def ways(self, spec: ModelSpec, source: ModelSource) -> HubWays | None:
        """Where it would fit; None while the hub is asked."""
        key = spec.path, source.revision
        ways, at = self._told.get(key, (None, 0.0))
        if ways is not None and time.monotonic() - at < (AGAIN_S if ways.passes else FRESH_S):
            return ways
        if key not in self._asking:
            self._asking[key] = self._tasks.spawn(self._ask(spec, source), f"offer of {source.repo}")
        return None

    async def answered(self, spec: ModelSpec, source: ModelSource) -> None:
        """Wait until it was asked, for some seconds."""
        if task := self._asking.get((spec.path, source.revision)):
            await asyncio.wait({task}, timeout=TIMEOUT_S)

    async def _ask(self, spec: ModelSpec, source: ModelSource) -> None:
        key = spec.path, source.revision
        question = AskOffer(reference=f"{source.repo}@{source.revision}", n_ctx=spec.n_ctx)
        try:
            ways = read_offer(await self._bus.call(subjects.HUB_OFFER, question), spec.path)
        except YardError as error:
            problem = f"its files could not be found on the hub: {error.message.rstrip('.')}"
            ways = HubWays(problem=problem, passes=isinstance(error, PASSING))
        finally:
            self._asking.pop(key, None)
        self._told[key] = ways, time.monotonic()
        self._on_answer()


def read_offer(offer: Offer, path: str) -> HubWays:
    """The nodes on which the model at `path` would fit."""
    offered = next((one for one in offer.choices if _is_at(one, offer.repo, path)), None)
    if offered is None:
        problem = offer.problem or f"{offer.repo} has no {path.removeprefix(f'{offer.repo}/')}."
        return HubWays(problem=f"its files could not be found on the hub: {problem.rstrip('.')}")
    return HubWays(
        options={fit.node: _option(fit) for fit in offered.fits if fit.devices},
        refusals={fit.node: f"it {fit.sentence.rstrip('.')}" for fit in offered.fits if not fit.devices},
        size_bytes=offered.size_bytes,
    )


def _option(fit: Fit) -> Option:
    """Of several devices nobody said how much each takes; the node itself knows once it has the files."""
    alone = len(fit.devices) == 1 and fit.needs_bytes is not None
    needs = (Need(device=fit.devices[0], memory_bytes=fit.needs_bytes or 0),) if alone else ()
    return Option(node=fit.node, devices=fit.devices, needs=needs)


def _is_at(offered: OfferedChoice, repo: str, path: str) -> bool:
    if path == repo:
        return offered.format is Format.SAFETENSORS
    return any(f"{repo}/{file.path}" == path for file in offered.files)
