"""Where a model fits and with how much context, one sentence a node. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from modelyard.text import format_size
from schemas.base import Format
from schemas.hub import Fit
from schemas.instances import Node
from schemas.models import Mode
from schemas.placement import NodeDevice
from schemas.profiles import CPU

GPU_MAX_CONTEXT = 32_768
"""More is seldom used and takes memory from other models."""
CPU_MAX_CONTEXT = 16_384
"""On a CPU a longer prompt takes minutes to read."""
VECTORS_MAX_CONTEXT = 8_192
MIN_CONTEXT = 4_096
"""A GPU with room for less than this is a worse place than main memory."""
_UNKNOWN_CONTEXT = 8_192
VECTOR_MODES = (Mode.EMBEDDING, Mode.RERANK)
_NO_MEMORY = "it has not reported its memory yet"

Requirements = Callable[[int, Sequence[str]], dict[str, int]]
"""Bytes by device, from a context in tokens and the devices to use."""


class FitQuery(NamedTuple):
    """A model to place; `n_ctx` fixes the context."""

    format: Format
    mode: Mode
    requirements: Requirements
    n_ctx_train: int | None = None
    n_ctx: int | None = None


class _Candidates(NamedTuple):
    """Sets of devices that an engine of the node can use, in the order of preference."""

    places: Sequence[tuple[NodeDevice, ...]]
    problem: str
    """Why there are none, if so."""


def fits(query: FitQuery, nodes: Iterable[Node]) -> tuple[Fit, ...]:
    """One fit a node, the best first: GPUs before main memory, more context before less."""
    return tuple(sorted((_fit(query, node) for node in nodes), key=_rank))


def contexts(n_ctx_train: int | None, mode: Mode, *, on_cpu: bool) -> tuple[int, ...]:
    """Contexts to try, largest first: the trained one up to a limit, then powers of two down to a minimum.

    A model trained for less than the minimum has one candidate, its trained context.
    """
    most = VECTORS_MAX_CONTEXT if mode in VECTOR_MODES else CPU_MAX_CONTEXT if on_cpu else GPU_MAX_CONTEXT
    largest = max(16, min(n_ctx_train or _UNKNOWN_CONTEXT, most))
    least = min(MIN_CONTEXT, largest)
    powers = [2**power for power in range(largest.bit_length(), 3, -1)]
    return (largest, *(n_ctx for n_ctx in powers if least <= n_ctx < largest))


def _rank(fit: Fit) -> tuple[int, int, str]:
    places = 3 if not fit.devices else 2 if CPU in fit.devices else min(len(fit.devices), 2) - 1
    return (places, -(fit.n_ctx or 0), fit.node)


def _fit(query: FitQuery, node: Node) -> Fit:
    candidates = _candidates(query, node)
    if not candidates.places:
        return Fit(node=node.node, sentence=f"cannot run on node {node.node}: {candidates.problem}")
    for place in candidates.places:
        for n_ctx in _contexts(query, place):
            needs = query.requirements(n_ctx, [device.device for device in place])
            if _has_room(node, needs):
                return Fit(
                    node=node.node,
                    devices=tuple(device.device for device in place),
                    n_ctx=n_ctx,
                    needs_bytes=sum(needs.values()),
                    sentence=_sentence(query, node, place, n_ctx, candidates),
                )
    largest = max(candidates.places, key=_memory)
    least = _least(query, largest)
    return Fit(
        node=node.node,
        needs_bytes=least,
        sentence=f"needs at least {format_size(least)}, and node {node.node} has "
        f"{format_size(_memory(largest))} for models: it does not fit",
    )


def _candidates(query: FitQuery, node: Node) -> _Candidates:
    usable = {offer.engine for offer in node.engines if offer.problem is None}
    gpus = sorted(
        (device for device in node.devices if device.device != CPU), key=lambda gpu: -gpu.memory_bytes
    )
    cpus = [(device,) for device in node.devices if device.device == CPU]
    single = [(gpu,) for gpu in gpus]
    together = [tuple(gpus)] if len(gpus) > 1 else []
    if query.format is Format.GGUF:
        if "llama.cpp" in usable:
            return _Candidates([*single, *together, *cpus], _NO_MEMORY)
        # The engine in the wheel computes in main memory only.
        return _Candidates(cpus if "embedded" in usable else [], _problems(node, "llama.cpp", "embedded"))
    if query.mode in VECTOR_MODES and "sentence-transformers" in usable:
        return _Candidates([*single, *cpus], _NO_MEMORY)
    if "vllm" in usable:
        return _Candidates([*single, *together], "it has no GPU for vLLM")
    engines = ("sentence-transformers", "vllm") if query.mode in VECTOR_MODES else ("vllm",)
    return _Candidates([], _problems(node, *engines))


def _problems(node: Node, *engines: str) -> str:
    problems = [
        f"{offer.engine}: {offer.problem}"
        for offer in node.engines
        if offer.engine in engines and offer.problem
    ]
    return " ".join(problems) or f"it has no engine {' or '.join(engines)}"


def _contexts(query: FitQuery, place: Sequence[NodeDevice]) -> tuple[int, ...]:
    if query.n_ctx is not None:
        return (query.n_ctx,)
    return contexts(query.n_ctx_train, query.mode, on_cpu=place[0].device == CPU)


def _has_room(node: Node, needs: dict[str, int]) -> bool:
    room = {device.device: device.memory_bytes for device in node.devices}
    return all(room.get(device, 0) >= size for device, size in needs.items())


def _least(query: FitQuery, place: Sequence[NodeDevice]) -> int:
    """Bytes on the devices of the place with the smallest context to try."""
    devices = [device.device for device in place]
    needs = query.requirements(_contexts(query, place)[-1], devices)
    return sum(needs.get(device, 0) for device in devices)


def _memory(place: Sequence[NodeDevice]) -> int:
    return sum(device.memory_bytes for device in place)


def _sentence(
    query: FitQuery, node: Node, place: Sequence[NodeDevice], n_ctx: int, candidates: _Candidates
) -> str:
    context = f"{f'{n_ctx // 1024}k' if n_ctx % 1024 == 0 else n_ctx} tokens of context"
    if len(place) > 1:
        return f"fits on the {len(place)} GPUs of node {node.node} together with {context}"
    if place[0].device != CPU:
        return f"fits on {_name(place[0], node)} of node {node.node} with {context}"
    gpus = [place for place in candidates.places if place[0].device != CPU]
    if not gpus:
        return f"fits in the main memory of node {node.node} with {context}, on the CPU"
    return (
        f"needs {format_size(_least(query, gpus[0]))}, the largest GPU of node {node.node} has "
        f"{format_size(gpus[0][0].memory_bytes)}; would run on the CPU with {context}"
    )


def _name(device: NodeDevice, node: Node) -> str:
    same = sum(other.name == device.name for other in node.devices)
    return f"{device.name} ({device.device})" if same > 1 else device.name
