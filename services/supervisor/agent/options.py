"""The ways in which this node could run a model: profiles on devices, and the memory of each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineProblem
from modelyard.plugins.engines import ENGINES
from schemas.models import ModelSpec, fingerprint
from schemas.placing import MeasuredMemory, Need, NodeDevice, NodeOptions, OnBehalfOf, Option, WorkerPlace
from schemas.profiles import ANY_GPU, CPU, DeviceNeed, Profile
from services.supervisor.agent.appetite import appetite, corrected, spread_appetite
from services.supervisor.engines.selection import choose_engine
from services.supervisor.runner.model_files import check_files, missing_file_problem, missing_files

_MIB = 1024 * 1024
_ONLY_CPU = frozenset({"embedded"})
"""Engines that this yard runs on main memory alone."""


class Placing(NamedTuple):
    """A profile on certain devices; `given` is the memory that the profile names."""

    profile: Profile | None
    devices: tuple[str, ...]
    given: dict[str, int]


def options(
    spec: ModelSpec,
    settings: Settings,
    devices: Sequence[NodeDevice],
    measured: Mapping[str, MeasuredMemory],
) -> NodeOptions:
    """Every way, best first. Where it cannot be run at all, one that will fail with a clear state."""
    fails = (Option(node=settings.node),)
    store = settings.store_of(spec.path)
    try:
        engine = choose_engine(spec, settings)
        if missing := missing_files(spec, store, engine):
            wanted = missing if settings.fetch else ()
            problem = missing_file_problem(spec, missing[0])
            return NodeOptions(options=fails, problem=problem, missing=wanted, engine=engine.name)
        check_files(spec, store, engine)
    except EngineProblem as error:
        return NodeOptions(options=fails, problem=str(error))
    return _ways(spec, settings, engine, devices, measured)


def options_of(
    other: OnBehalfOf, spec: ModelSpec, settings: Settings, measured: Mapping[str, MeasuredMemory]
) -> NodeOptions:
    """The ways of a node that lacks the files, by those that are here."""
    try:
        engine = ENGINES.discover(settings.engine_plugins).plugins.get(other.engine) or choose_engine(
            spec, settings
        )
        check_files(spec, settings.store_of(spec.path), engine)
    except EngineProblem as error:
        return NodeOptions(problem=str(error))
    found = _ways(spec, msgspec.structs.replace(settings, node=other.node), engine, other.devices, measured)
    return msgspec.structs.replace(found, engine=other.engine)


def _ways(
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    devices: Sequence[NodeDevice],
    measured: Mapping[str, MeasuredMemory],
) -> NodeOptions:
    found: list[Option] = []
    problem = None
    for placing in placings(spec, engine.name, devices):
        try:
            found.append(_option(spec, settings, engine, placing, measured))
        except EngineProblem as error:
            problem = problem or str(error)
    if found or problem:
        return NodeOptions(options=tuple(found), problem=None if found else problem)
    wanted = sorted({need.device for profile in spec.profiles for need in profile.devices})
    return NodeOptions(
        problem=f"node {settings.node} has no {' or '.join(wanted)}, which its profiles ask for"
    )


def placings(spec: ModelSpec, engine: str, devices: Sequence[NodeDevice]) -> Iterator[Placing]:
    """Profiles in their order, each on every set of devices that it fits by name."""
    for profile in spec.profiles or (None,):
        for chosen in _choices(profile.devices if profile else (), engine, devices):
            needs = profile.devices if profile else ()
            given = {
                device: need.memory_mib * _MIB
                for device, need in zip(chosen, needs, strict=False)
                if need.memory_mib is not None
            }
            yield Placing(profile, chosen, given)


def _choices(
    needs: Sequence[DeviceNeed], engine: str, devices: Sequence[NodeDevice]
) -> Iterator[tuple[str, ...]]:
    gpus = [one for one in devices if one.device != CPU and engine not in _ONLY_CPU]
    if not needs:
        # The roomiest GPU first, then all of them together, then main memory.
        yield from ((one.device,) for one in sorted(gpus, key=lambda one: -one.memory_bytes))
        if len(gpus) > 1:
            yield tuple(one.device for one in gpus)
        yield (CPU,)
    elif len(needs) == 1 and needs[0].device == ANY_GPU:
        yield from ((one.device,) for one in sorted(gpus, key=lambda one: -one.memory_bytes))
    elif (chosen := _named(needs, devices)) is not None:
        yield chosen


def _named(needs: Sequence[DeviceNeed], devices: Sequence[NodeDevice]) -> tuple[str, ...] | None:
    """A device of its own for each need, by id, by name, or any GPU; None if one is missing."""
    free = sorted(devices, key=lambda one: -one.memory_bytes)
    chosen: list[str] = []
    for need in needs:
        fitting = next((one for one in free if _is_meant(need.device, one)), None)
        if fitting is None:
            return None
        free.remove(fitting)
        chosen.append(fitting.device)
    return tuple(chosen)


def _is_meant(name: str, device: NodeDevice) -> bool:
    return name in (device.device, device.name) or (name == ANY_GPU and device.device != CPU)


def _option(
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    placing: Placing,
    measured: Mapping[str, MeasuredMemory],
) -> Option:
    profile = placing.profile
    if profile is not None and profile.workers:
        return _spread_option(spec, settings, engine, placing, profile)
    known = measured.get(memory_key(settings.node, fingerprint(spec), profile.name if profile else None))
    needs = appetite(spec, settings.store_of(spec.path), engine.name, placing.devices, profile)
    needs = corrected(needs, known) | placing.given
    return Option(
        node=settings.node,
        profile=profile.name if profile else None,
        devices=placing.devices,
        needs=tuple(Need(device=device, memory_bytes=size) for device, size in needs.items()),
        load_s=known.load_s if known else None,
    )


def _spread_option(
    spec: ModelSpec, settings: Settings, engine: Engine, placing: Placing, profile: Profile
) -> Option:
    """With workers, for which nobody has chosen nodes yet. As calculated: nothing was measured elsewhere."""
    if not engine.supports_workers:
        raise EngineProblem(
            f"Profile {profile.name} of {spec.name} has workers; only llama.cpp (llama-server) has them, "
            f"and node {settings.node} would use {engine.name}."
        )
    found = spread_appetite(spec, settings.store_of(spec.path), placing.devices, profile)
    needs = found.own_bytes | placing.given
    return Option(
        node=settings.node,
        profile=profile.name,
        devices=placing.devices,
        needs=tuple(Need(device=device, memory_bytes=size) for device, size in needs.items()),
        workers=tuple(
            WorkerPlace(
                node=need.node,
                device=need.device,
                memory_bytes=need.memory_mib * _MIB if need.memory_mib else size,
            )
            for need, size in zip(profile.workers, found.workers_bytes, strict=True)
        ),
        split=found.layers,
    )


def memory_key(node: str, spec_fingerprint: str, profile: str | None) -> str:
    """Under what is kept what was measured of a model in one profile on one node."""
    return f"{node}.{spec_fingerprint}.{profile.encode().hex() if profile else 'none'}"
