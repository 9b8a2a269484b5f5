"""Which nodes hold the parts of a model that its own node does not."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

import msgspec

from schemas.instances import Instance, Node
from schemas.placement import MemoryNeed, Option, WorkerPlacement
from schemas.profiles import ANY_NODE, CPU

LLAMA_CPP = "llama.cpp"
_MAX_PLACEMENTS = 24
"""So many placements of one option are compared."""


def place_workers(
    options: Sequence[Option], nodes: Mapping[str, Node], previous: Iterable[Instance]
) -> tuple[tuple[Option, ...], str | None]:
    """`options` with a node for every worker, once for each placement; and why there is none.

    Nodes that `previous` instances used come first: they may still cache tensors of the model.
    """
    preferred = {reserved.node for instance in previous for reserved in instance.reserved if reserved.node}
    placed: list[Option] = []
    problem = None
    for option in options:
        placements = [option]
        if option.workers:
            placements = list(islice(_placements(option, nodes, preferred), _MAX_PLACEMENTS))
        if not placements:
            problem = problem or _explain_no_placement(option, nodes)
        placed += placements
    return tuple(placed), None if placed else problem


def worker_refusal(node: Node, head: str, head_version: str | None) -> str | None:
    """Why `node` cannot hold a part of a model of node `head`; None if it can."""
    if node.rpc is None or node.rpc.problem is not None:
        return f"{node.node}: {node.rpc.problem if node.rpc else 'it has no workers'}"
    if node.cordoned:
        return f"{node.node} is cordoned"
    if node.node != head and ipaddress.ip_address(node.rpc.host).is_loopback:
        return f"{node.node} is not reachable from {head}; set YARD_RPC_HOST there to its address"
    if node.rpc.version and head_version and node.rpc.version != head_version:
        return (
            f"{node.node} has llama.cpp {node.rpc.version}, {head} has {head_version}; both need the same one"
        )
    return None


def _llama_version(node: Node | None) -> str | None:
    offers = node.engines if node else ()
    return next((offer.version for offer in offers if offer.engine == LLAMA_CPP), None)


def _placements(option: Option, nodes: Mapping[str, Node], preferred: set[str]) -> Iterator[Option]:
    version = _llama_version(nodes.get(option.node))
    usable = [node for node in nodes.values() if worker_refusal(node, option.node, version) is None]
    usable.sort(key=lambda node: (node.node not in preferred, node.node))
    choices = [list(_places(worker, option.node, usable)) for worker in option.workers]
    for chosen in product(*choices):
        if _are_distinct(option.workers, chosen):
            needs = (
                MemoryNeed(node=place.node, device=place.device, memory_bytes=place.memory_bytes)
                for place in chosen
            )
            yield msgspec.structs.replace(option, workers=chosen, needs=(*option.needs, *needs))


def _places(worker: WorkerPlacement, head: str, usable: Iterable[Node]) -> Iterator[WorkerPlacement]:
    for node in usable:
        if node.node == worker.node or (worker.node == ANY_NODE and node.node != head):
            for device in sorted(node.devices, key=lambda device: -device.memory_bytes):
                if device.matches(worker.device):
                    yield msgspec.structs.replace(worker, node=node.node, device=device.device)


def _are_distinct(requested: Sequence[WorkerPlacement], chosen: Sequence[WorkerPlacement]) -> bool:
    """Whether each worker for any node has a node of its own, and no GPU holds two parts."""
    free = [place.node for worker, place in zip(requested, chosen, strict=True) if worker.node == ANY_NODE]
    gpus = [(place.node, place.device) for place in chosen if place.device != CPU]
    return len(set(free)) == len(free) and len(set(gpus)) == len(gpus)


def _explain_no_placement(option: Option, nodes: Mapping[str, Node]) -> str:
    version = _llama_version(nodes.get(option.node))
    names = {worker.node for worker in option.workers}
    missing = sorted(names - nodes.keys() - {ANY_NODE})
    reasons = [f"there is no node {name}" for name in missing]
    considered = (
        node
        for node in nodes.values()
        if node.node in names or (ANY_NODE in names and node.node != option.node)
    )
    reasons += filter(None, (worker_refusal(node, option.node, version) for node in considered))
    requested = ", ".join(f"{worker.device} of {worker.node}" for worker in option.workers)
    details = f": {'; '.join(reasons)}" if reasons else ""
    return f"no nodes have what its workers require ({requested}){details}"
