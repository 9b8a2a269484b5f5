"""Which nodes hold the parts of a model that its own node does not: a pure choice among those that can."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

import msgspec

from schemas.instances import Instance, Node
from schemas.placing import Need, Option, WorkerPlace
from schemas.profiles import ANY_GPU, ANY_NODE, CPU

LLAMA_CPP = "llama.cpp"
_MOST = 24
"""So many ways of spreading one option are looked at."""


def settled(
    options: Sequence[Option], nodes: Mapping[str, Node], before: Iterable[Instance]
) -> tuple[tuple[Option, ...], str | None]:
    """`options` with a node chosen for every worker, each in all its ways; and why there is none left.

    Nodes that a model had `before` come first, so that they find what they kept of it.
    """
    known = {one.node for instance in before for one in instance.reserved if one.node}
    found: list[Option] = []
    problem = None
    for option in options:
        ways = list(islice(_ways(option, nodes, known), _MOST)) if option.workers else [option]
        if not ways:
            problem = problem or _problem(option, nodes)
        found += ways
    return tuple(found), None if found else problem


def refusal(node: Node, head: str, head_version: str | None) -> str | None:
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


def version_of(node: Node | None) -> str | None:
    """Of the llama-server there."""
    offers = node.engines if node else ()
    return next((offer.version for offer in offers if offer.engine == LLAMA_CPP), None)


def _ways(option: Option, nodes: Mapping[str, Node], known: set[str]) -> Iterator[Option]:
    version = version_of(nodes.get(option.node))
    usable = [node for node in nodes.values() if refusal(node, option.node, version) is None]
    usable.sort(key=lambda node: (node.node not in known, node.node))
    choices = [list(_places(worker, option.node, usable)) for worker in option.workers]
    for chosen in product(*choices):
        if _are_apart(option.workers, chosen):
            needs = (Need(node=one.node, device=one.device, memory_bytes=one.memory_bytes) for one in chosen)
            yield msgspec.structs.replace(option, workers=chosen, needs=(*option.needs, *needs))


def _places(worker: WorkerPlace, head: str, usable: Iterable[Node]) -> Iterator[WorkerPlace]:
    for node in usable:
        if node.node == worker.node or (worker.node == ANY_NODE and node.node != head):
            for device in sorted(node.devices, key=lambda one: -one.memory_bytes):
                if worker.device in (device.device, device.name) or (
                    worker.device == ANY_GPU and device.device != CPU
                ):
                    yield msgspec.structs.replace(worker, node=node.node, device=device.device)


def _are_apart(wanted: Sequence[WorkerPlace], chosen: Sequence[WorkerPlace]) -> bool:
    """Whether each worker for which any node will do has one of its own, and no GPU holds two parts."""
    free = [place.node for want, place in zip(wanted, chosen, strict=True) if want.node == ANY_NODE]
    gpus = [(place.node, place.device) for place in chosen if place.device != CPU]
    return len(set(free)) == len(free) and len(set(gpus)) == len(gpus)


def _problem(option: Option, nodes: Mapping[str, Node]) -> str:
    version = version_of(nodes.get(option.node))
    names = {worker.node for worker in option.workers}
    missing = sorted(names - nodes.keys() - {ANY_NODE})
    asked = [node for node in nodes.values() if node.node in names or ANY_NODE in names]
    why = [f"there is no node {name}" for name in missing]
    others = (node for node in asked if node.node != option.node or node.node in names)
    why += filter(None, (refusal(node, option.node, version) for node in others))
    wanted = ", ".join(f"{worker.device} of {worker.node}" for worker in option.workers)
    return f"no nodes have what its workers ask for ({wanted})" + (f": {'; '.join(why)}" if why else "")
