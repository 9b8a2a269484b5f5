"""Commands to nodes: a direct call on the scheduler's own node, the wire elsewhere; and their options."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import subjects
from schemas.base import model_key
from schemas.errors import BrokerUnavailable, DeadlineExceeded, InternalError, ServiceUnavailable, YardError
from schemas.instances import Accepted, Instance, Node
from schemas.models import ModelSpec
from schemas.placement import GetNodeOptions, NodeOptions, OnBehalfOf, Option
from schemas.subject import Command
from services.supervisor.planning.worker_placement import place_workers
from services.supervisor.planning.world import NodeCapacity, join_names

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

OPTIONS_TTL_S = 10.0
"""How long an answer is cached: files and devices come and go."""
ORDER_TIMEOUT_S = 3.0
"""A node takes an order at once, or is not there: others must not wait for that."""
_OPTIONS_TIMEOUT_S = 2.0

Handlers = Mapping[Command[Any, Any], Callable[[Any], Coroutine[Any, Any, Any]]]
"""The commands of a node in this process."""


class _Query(NamedTuple):
    model: str
    revision: int
    node: str
    on_behalf_of: str | None = None


class _CachedOptions(NamedTuple):
    options: NodeOptions
    at: float


class NodeClient:
    """The nodes with a record, and a cache of how they could run models."""

    def __init__(
        self,
        bus: Bus,
        nodes: BucketCache[Node],
        models: BucketCache[ModelSpec],
        local: Mapping[str, Handlers] | None = None,
    ) -> None:
        """`local`: nodes of this process, by name."""
        self._bus = bus
        self._nodes = nodes
        self._models = models
        self._local = local or {}
        self._cache: dict[_Query, _CachedOptions] = {}
        self._unresponsive: dict[str, int] = {}
        """The revision of a node's record when it did not respond."""

    async def order(self, command: Command[T, Accepted], node: str, order: T) -> None:
        """Order a start or a stop; the node's error, if it refuses."""
        await self._call(command, node, order, ORDER_TIMEOUT_S)

    async def _call(self, command: Command[T, R], node: str, payload: T, timeout_s: float) -> R:
        handler = self._local.get(node, {}).get(command)
        if handler is None:
            return await self._bus.call(command, payload, node=node, timeout_s=timeout_s)
        return await _run_to_end(handler(payload))

    def mark_unresponsive(self, node: str) -> None:
        """Send it nothing until it renews its record."""
        self._unresponsive[node] = self._nodes.revisions.get(node, 0)

    def unresponsive(self) -> list[str]:
        """Nodes that have a record and do not respond."""
        return sorted(node for node in self._nodes.values if self._is_unresponsive(node))

    def _is_unresponsive(self, node: str) -> bool:
        return self._unresponsive.get(node) == self._nodes.revisions.get(node)

    def get(self, node: str) -> Node | None:
        return self._nodes.values.get(node)

    def capacities(self) -> dict[str, NodeCapacity]:
        """The memory of every responsive node."""
        return {
            node.node: NodeCapacity(
                memory_bytes={device.device: device.memory_bytes for device in node.devices},
                cordoned=node.cordoned,
            )
            for node in self._nodes.values.values()
            if not self._is_unresponsive(node.node)
        }

    async def options(
        self, models: Iterable[str], instances: Iterable[Instance]
    ) -> tuple[dict[str, tuple[Option, ...]], dict[str, str]]:
        """The options of each model on all nodes, best first, and the problems of models without one.

        `instances`: the last ones, whose nodes are preferred for the workers of spread models.
        """
        nodes = self.capacities()
        queries = {
            model: [_Query(model, revision, node) for node in nodes]
            for model in models
            if nodes and (revision := self._revision(model)) is not None
        }
        self._expire()
        pending = (query for sent in queries.values() for query in sent if query not in self._cache)
        await asyncio.gather(*map(self._query, pending))
        instances = list(instances)
        options: dict[str, tuple[Option, ...]] = {}
        problems: dict[str, str] = {}
        for model, sent in queries.items():
            previous = [instance for instance in instances if instance.model == model]
            options[model], problem = self._merged(sent, previous)
            if problem is not None:
                problems[model] = problem
        return options, problems

    def _merged(
        self, queries: Iterable[_Query], previous: list[Instance]
    ) -> tuple[tuple[Option, ...], str | None]:
        unresponsive = self.unresponsive()
        responsive = (query for query in queries if query.node not in unresponsive)
        answers = [self._cache[query].options for query in responsive if query in self._cache]
        options, problem = merge_options(answers, unresponsive)
        nodes = {name: node for name, node in self._nodes.values.items() if name not in unresponsive}
        placed, unplaced = place_workers(options, nodes, previous)
        return placed, problem or unplaced

    def lacking_files(self, model: str) -> dict[str, NodeOptions]:
        """Nodes that lack files of a model and could run it otherwise, with their answers."""
        nodes, revision = self.capacities(), self._revision(model)
        return {
            query.node: cached.options
            for query, cached in self._cache.items()
            if (query.model, query.revision, query.on_behalf_of) == (model, revision, None)
            and query.node in nodes
            and cached.options.missing
        }

    def _revision(self, model: str) -> int | None:
        return self._models.revisions.get(model_key(model))

    def invalidate(self) -> None:
        """Query the nodes again: their files have changed."""
        self._cache.clear()

    async def options_on_behalf_of(self, other: OnBehalfOf, node: str, model: str) -> NodeOptions:
        """How `other` could run a model, by the files on `node`; unknown needs if that does not answer."""
        revision = self._revision(model)
        query = _Query(model, revision or 0, node, other.node)
        if revision is not None and query not in self._cache and node in self.capacities():
            await self._query(query, other)
        cached = self._cache.get(query)
        return cached.options if cached else NodeOptions(options=(Option(node=other.node),))

    async def _query(self, query: _Query, other: OnBehalfOf | None = None) -> None:
        request = GetNodeOptions(model=query.model, revision=query.revision, on_behalf_of=other)
        try:
            answer = await self._call(subjects.NODE_OPTIONS, query.node, request, _OPTIONS_TIMEOUT_S)
        except YardError as error:
            log.warning("node_options_failed", node=query.node, model=query.model, error=error.message)
            if isinstance(error, BrokerUnavailable | ServiceUnavailable | DeadlineExceeded):
                self.mark_unresponsive(query.node)
            if isinstance(error, InternalError):
                # It responds and fails for one model: other models can still use the node.
                problem = f"node {query.node} failed to report how it would run {query.model}"
                failed = NodeOptions(problem=f"{problem}; its log has the error")
                self._cache[query] = _CachedOptions(failed, time.monotonic())
            # Else its copy of the registry is briefly older or newer than this one.
            return
        self._cache[query] = _CachedOptions(answer, time.monotonic())

    def _expire(self) -> None:
        oldest = time.monotonic() - OPTIONS_TTL_S
        self._cache = {query: cached for query, cached in self._cache.items() if cached.at > oldest}


async def _run_to_end(work: Coroutine[Any, Any, R]) -> R:
    """As a command over the wire: it ends although its caller is cancelled, and fails with a YardError."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(task)
    except YardError:
        raise
    except Exception as error:
        log.exception("node_command_failed")
        raise InternalError("Something went wrong inside; the log of the service has it.") from error


def merge_options(
    answers: Iterable[NodeOptions], unresponsive: Sequence[str] = ()
) -> tuple[tuple[Option, ...], str | None]:
    """Every node's best, then every node's next; those of nodes with a problem only where all have one.

    A start that will fail is not tried while a node does not respond: that node might have the file.
    """
    answers = list(answers)
    usable = [answer.options for answer in answers if answer.problem is None]
    problem = next((answer.problem for answer in answers if answer.problem is not None), None)
    if not usable and unresponsive:
        return (), f"{join_names(unresponsive)} might be able to run it, but does not respond now"
    ranked = usable or [answer.options for answer in answers]
    longest = max(map(len, ranked), default=0)
    merged = tuple(options[rank] for rank in range(longest) for options in ranked if rank < len(options))
    return merged, None if usable else problem
