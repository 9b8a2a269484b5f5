"""What the nodes say about themselves, and about how they could run a model."""

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

from modelyard import logging
from modelyard.bus import Bus
from modelyard.state import Mirror
from schemas import subjects
from schemas.errors import YardError
from schemas.instances import Instance, Node
from schemas.models import ModelSpec
from schemas.placing import AskOptions, Option, Options
from services.supervisor.planning.workers import settled
from services.supervisor.planning.world import NodeRoom

log = logging.get(__name__)

FRESH_S = 10.0
"""How long an answer counts: files and devices come and go."""
_PATIENCE_S = 3.0


class _Asked(NamedTuple):
    model: str
    revision: int
    node: str


class _Answer(NamedTuple):
    options: Options
    at: float


class Nodes:
    """A view on the nodes that are there."""

    def __init__(self, bus: Bus, nodes: Mirror[Node], models: Mirror[ModelSpec]) -> None:
        self._bus = bus
        self._nodes = nodes
        self._models = models
        self._answers: dict[_Asked, _Answer] = {}

    def rooms(self) -> dict[str, NodeRoom]:
        """What each node has for models."""
        return {
            node.node: NodeRoom(
                memory_bytes={one.device: one.memory_bytes for one in node.devices}, cordoned=node.cordoned
            )
            for node in self._nodes.values.values()
        }

    async def options(
        self, models: Iterable[str], instances: Iterable[Instance]
    ) -> tuple[dict[str, tuple[Option, ...]], dict[str, str]]:
        """For each model the ways to run it anywhere, best first, and the problems of those without.

        `instances`: what ran last, by which models spread over nodes find their old ones.
        """
        instances = list(instances)
        revisions = {spec.name: self._models.revisions[key] for key, spec in self._models.values.items()}
        asked = [
            _Asked(model, revisions[model], node)
            for model in models
            if model in revisions
            for node in self._nodes.values
        ]
        self._forget_old()
        await asyncio.gather(*(self._ask(one) for one in asked if one not in self._answers))
        ways: dict[str, tuple[Option, ...]] = {}
        problems: dict[str, str] = {}
        for model in {one.model for one in asked}:
            said = [
                self._answers[one].options for one in asked if one.model == model and one in self._answers
            ]
            ways[model], problem = merged(said)
            before = [one for one in instances if one.model == model]
            ways[model], unsettled = settled(ways[model], self._nodes.values, before)
            problem = problem or unsettled
            if problem is not None:
                problems[model] = problem
        return ways, problems

    async def _ask(self, one: _Asked) -> None:
        question = AskOptions(model=one.model, revision=one.revision)
        try:
            said = await self._bus.call(subjects.NODE_OPTIONS, question, node=one.node, timeout_s=_PATIENCE_S)
        except YardError as error:
            log.warning("node_does_not_say", node=one.node, model=one.model, error=error.message)
            return
        self._answers[one] = _Answer(said, time.monotonic())

    def _forget_old(self) -> None:
        limit = time.monotonic() - FRESH_S
        self._answers = {one: answer for one, answer in self._answers.items() if answer.at > limit}


def merged(said: Iterable[Options]) -> tuple[tuple[Option, ...], str | None]:
    """Every node's best, then every node's next; those of nodes with a problem only where all have one."""
    said = list(said)
    good = [one.options for one in said if one.problem is None]
    problem = next((one.problem for one in said if one.problem is not None), None)
    ranked = good or [one.options for one in said]
    longest = max(map(len, ranked), default=0)
    turns = tuple(options[rank] for rank in range(longest) for options in ranked if rank < len(options))
    return turns, None if good else problem
