"""What the nodes say about themselves, and about how they could run a model."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import subjects
from schemas.errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    InternalError,
    ServiceUnavailable,
    YardError,
)
from schemas.instances import Instance, Node
from schemas.models import ModelSpec
from schemas.placing import AskOptions, NodeOptions, OnBehalfOf, Option
from services.supervisor.planning.workers import settled
from services.supervisor.planning.world import NodeRoom

log = logs.get(__name__)

FRESH_S = 10.0
"""How long an answer counts: files and devices come and go."""
_TIMEOUT_S = 2.0


class _Asked(NamedTuple):
    model: str
    revision: int
    node: str
    on_behalf_of: str | None = None


class _Answer(NamedTuple):
    options: NodeOptions
    at: float


class Nodes:
    """A view on the nodes that are there."""

    def __init__(self, bus: Bus, nodes: BucketCache[Node], models: BucketCache[ModelSpec]) -> None:
        self._bus = bus
        self._nodes = nodes
        self._models = models
        self._answers: dict[_Asked, _Answer] = {}
        self._silent: dict[str, int] = {}
        """Nodes that did not answer, with the revision that their record had then."""

    def note_silent(self, node: str) -> None:
        """It did not answer: nothing is asked of it until it says anew that it is there."""
        self._silent[node] = self._nodes.revisions.get(node, 0)

    def silent(self) -> list[str]:
        """Nodes that should be there, and do not answer."""
        return sorted(one for one in self._nodes.values if self._is_silent(one))

    def _is_silent(self, node: str) -> bool:
        return self._silent.get(node) == self._nodes.revisions.get(node)

    def get(self, node: str) -> Node | None:
        """The record of a node that is there."""
        return self._nodes.values.get(node)

    def rooms(self) -> dict[str, NodeRoom]:
        """What each node has for models that answers."""
        return {
            node.node: NodeRoom(
                memory_bytes={one.device: one.memory_bytes for one in node.devices}, cordoned=node.cordoned
            )
            for node in self._nodes.values.values()
            if not self._is_silent(node.node)
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
            for node in self.rooms()
        ]
        self._forget_old()
        await asyncio.gather(*(self._ask(one) for one in asked if one not in self._answers))
        silent = self.silent()
        there = {name: node for name, node in self._nodes.values.items() if name not in silent}
        ways: dict[str, tuple[Option, ...]] = {}
        problems: dict[str, str] = {}
        for model in {one.model for one in asked}:
            said = [
                self._answers[one].options
                for one in asked
                if one.model == model and one in self._answers and one.node not in silent
            ]
            ways[model], problem = merged(said, silent)
            before = [one for one in instances if one.model == model]
            ways[model], unsettled = settled(ways[model], there, before)
            problem = problem or unsettled
            if problem is not None:
                problems[model] = problem
        return ways, problems

    def lacking(self, model: str) -> dict[str, NodeOptions]:
        """Nodes that could run a model but for files that they lack, with what they said of it as it is."""
        there, revision = self.rooms(), self._revision(model)
        return {
            one.node: answer.options
            for one, answer in self._answers.items()
            if (one.model, one.revision, one.on_behalf_of) == (model, revision, None)
            and one.node in there
            and answer.options.missing
        }

    def _revision(self, model: str) -> int | None:
        key = next((key for key, spec in self._models.values.items() if spec.name == model), None)
        return None if key is None else self._models.revisions[key]

    def forget(self) -> None:
        """Ask anew at the next look: files have come."""
        self._answers.clear()

    async def instead(self, node: str, model: str, other: OnBehalfOf) -> NodeOptions:
        """How `other` could run a model, by the files on `node`; nothing known if that does not say."""
        revision = self._revision(model)
        asked = _Asked(model, revision or 0, node, other.node)
        if revision is not None and asked not in self._answers and node in self.rooms():
            await self._ask(asked, other)
        answer = self._answers.get(asked)
        return answer.options if answer else NodeOptions(options=(Option(node=other.node),))

    async def _ask(self, one: _Asked, on_behalf_of: OnBehalfOf | None = None) -> None:
        question = AskOptions(model=one.model, revision=one.revision, on_behalf_of=on_behalf_of)
        try:
            said = await self._bus.call(subjects.NODE_OPTIONS, question, node=one.node, timeout_s=_TIMEOUT_S)
        except YardError as error:
            log.warning("node_does_not_say", node=one.node, model=one.model, error=error.message)
            if isinstance(error, BrokerUnavailable | ServiceUnavailable | DeadlineExceeded):
                self.note_silent(one.node)
            if isinstance(error, InternalError):
                # It is there, and stumbles over this one model: that must not cost the others the node.
                self._answers[one] = _Answer(_stumbles(one), time.monotonic())
            # Else its view of the registry is a moment older or newer than ours.
            return
        self._answers[one] = _Answer(said, time.monotonic())

    def _forget_old(self) -> None:
        limit = time.monotonic() - FRESH_S
        self._answers = {one: answer for one, answer in self._answers.items() if answer.at > limit}


def _stumbles(one: _Asked) -> NodeOptions:
    return NodeOptions(
        problem=f"node {one.node} failed to say how it would run {one.model}; its log has the error"
    )


def merged(said: Iterable[NodeOptions], silent: Sequence[str] = ()) -> tuple[tuple[Option, ...], str | None]:
    """Every node's best, then every node's next; those of nodes with a problem only where all have one.

    A start that will fail is not tried as long as one of the nodes does not answer: it might have the file.
    """
    said = list(said)
    good = [one.options for one in said if one.problem is None]
    problem = next((one.problem for one in said if one.problem is not None), None)
    if not good and silent:
        return (), f"{' and '.join(silent)} could run it perhaps, but does not answer now"
    ranked = good or [one.options for one in said]
    longest = max(map(len, ranked), default=0)
    turns = tuple(options[rank] for rank in range(longest) for options in ranked if rank < len(options))
    return turns, None if good else problem
