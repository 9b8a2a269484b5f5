"""Where a model would fit, and with how much context, told in a sentence for each node."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.base import Format
from schemas.hub import Fit
from schemas.instances import Node
from schemas.models import Mode
from schemas.placing import NodeDevice
from schemas.profiles import CPU
from services.downloader.fitting.appetite import Appetite
from services.downloader.fitting.contexts import contexts, spell_context

_GIB = 1024**3
_MIB = 1024**2
_TORCH_MODES = (Mode.EMBEDDING, Mode.RERANK)


class Wanted(NamedTuple):
    """What is to be run; with `n_ctx` a person asks for that context and no other."""

    format: Format
    mode: Mode
    appetite: Appetite
    n_ctx_train: int | None = None
    n_ctx: int | None = None


class _Room(NamedTuple):
    """The devices of a node that an engine there can use, in the order in which it would try them."""

    places: tuple[tuple[NodeDevice, ...], ...]
    problem: str | None = None


def fits(wanted: Wanted, nodes: Iterable[Node]) -> tuple[Fit, ...]:
    """One for each node, the best first: GPUs before main memory, more context before less."""
    found = [_fit(wanted, node) for node in nodes]
    return tuple(sorted(found, key=_rank))


def spell_bytes(count: int) -> str:
    """Memory for people."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def _rank(fit: Fit) -> tuple[int, int, str]:
    places = 3 if not fit.devices else 2 if CPU in fit.devices else min(len(fit.devices), 2) - 1
    return (places, -(fit.n_ctx or 0), fit.node)


def _fit(wanted: Wanted, node: Node) -> Fit:
    room = _room(wanted, node)
    if room.problem is not None:
        return Fit(node=node.node, sentence=f"cannot run on node {node.node}: {room.problem}")
    for place in room.places:
        for n_ctx in _contexts(wanted, place):
            needs = wanted.appetite(n_ctx, [device.device for device in place])
            if _has_room(node, needs):
                return Fit(
                    node=node.node,
                    devices=tuple(device.device for device in place),
                    n_ctx=n_ctx,
                    needs_bytes=sum(needs.values()),
                    sentence=_sentence(wanted, node, place, n_ctx, room),
                )
    roomiest = max(room.places, key=_memory)
    least = _least(wanted, roomiest)
    return Fit(
        node=node.node,
        needs_bytes=least,
        sentence=f"needs at least {spell_bytes(least)}, and node {node.node} has "
        f"{spell_bytes(_memory(roomiest))} for models: it does not fit",
    )


def _room(wanted: Wanted, node: Node) -> _Room:
    usable = {offer.engine for offer in node.engines if offer.problem is None}
    gpus = sorted((one for one in node.devices if one.device != CPU), key=lambda one: -one.memory_bytes)
    cpus = [(one,) for one in node.devices if one.device == CPU]
    alone = [(gpu,) for gpu in gpus]
    together = [tuple(gpus)] if len(gpus) > 1 else []
    if wanted.format is Format.GGUF:
        if "llama.cpp" in usable:
            return _places([*alone, *together, *cpus], "it told of no memory yet")
        problem = _problems(node, "llama.cpp", "embedded")
        # The engine in the wheel computes in main memory alone.
        return _places(cpus if "embedded" in usable else [], problem)
    if wanted.mode in _TORCH_MODES and "sentence-transformers" in usable:
        return _places([*alone, *cpus], "it told of no memory yet")
    if "vllm" in usable:
        return _places([*alone, *together], "it has no GPU for vLLM")
    return _places([], _problems(node, *_torch_engines(wanted.mode)))


def _places(places: Sequence[tuple[NodeDevice, ...]], problem: str) -> _Room:
    return _Room(tuple(places), None if places else problem)


def _torch_engines(mode: Mode) -> tuple[str, ...]:
    return ("sentence-transformers", "vllm") if mode in _TORCH_MODES else ("vllm",)


def _problems(node: Node, *engines: str) -> str:
    told = [f"{one.engine}: {one.problem}" for one in node.engines if one.engine in engines and one.problem]
    return " ".join(told) or f"it has no engine {' or '.join(engines)}"


def _contexts(wanted: Wanted, place: Sequence[NodeDevice]) -> tuple[int, ...]:
    if wanted.n_ctx is not None:
        return (wanted.n_ctx,)
    return contexts(wanted.n_ctx_train, wanted.mode, on_cpu=place[0].device == CPU)


def _has_room(node: Node, needs: dict[str, int]) -> bool:
    room = {device.device: device.memory_bytes for device in node.devices}
    return all(room.get(device, 0) >= size for device, size in needs.items())


def _least(wanted: Wanted, place: Sequence[NodeDevice]) -> int:
    """Memory of the place's own devices with the least context that is worth it."""
    devices = [device.device for device in place]
    needs = wanted.appetite(_contexts(wanted, place)[-1], devices)
    return sum(needs.get(device, 0) for device in devices)


def _memory(place: Sequence[NodeDevice]) -> int:
    return sum(device.memory_bytes for device in place)


def _sentence(wanted: Wanted, node: Node, place: Sequence[NodeDevice], n_ctx: int, room: _Room) -> str:
    context = f"{spell_context(n_ctx)} tokens of context"
    if len(place) > 1:
        return f"fits on the {len(place)} GPUs of node {node.node} together with {context}"
    if place[0].device != CPU:
        return f"fits on {_name(place[0], node)} of node {node.node} with {context}"
    gpus = [other for other in room.places if other[0].device != CPU]
    if not gpus:
        return f"fits in the main memory of node {node.node} with {context}, on the CPU"
    return (
        f"needs {spell_bytes(_least(wanted, gpus[0]))}, the largest GPU of node {node.node} has "
        f"{spell_bytes(gpus[0][0].memory_bytes)}; would run on the CPU with {context}"
    )


def _name(device: NodeDevice, node: Node) -> str:
    """Its name, and its id where others have the same."""
    alike = sum(other.name == device.name for other in node.devices)
    return f"{device.name} ({device.device})" if alike > 1 else device.name
