"""How this node could run a model: profiles on devices, and the memory of each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from modelyard.files.memory import apply_measurements, spread_requirements, stored_requirements
from modelyard.host.settings import Settings
from modelyard.plugins import Engine, EngineProblem
from modelyard.plugins.engines import ENGINES
from schemas.models import ModelSpec, fingerprint
from schemas.placement import (
    MeasuredMemory,
    MemoryNeed,
    NodeDevice,
    NodeOptions,
    OnBehalfOf,
    Option,
    WorkerPlacement,
)
from schemas.profiles import ANY_GPU, CPU, DeviceNeed, Profile
from services.supervisor.engines.selection import (
    check_files,
    choose_engine,
    missing_file_problem,
    missing_files,
)

_MIB = 1024 * 1024
_ONLY_CPU = frozenset({"embedded"})
"""Engines that this yard runs on main memory only."""


class DevicePlacement(NamedTuple):
    """A profile on certain devices; `specified` is the memory that the profile sets."""

    profile: Profile | None
    devices: tuple[str, ...]
    specified: dict[str, int]


def options(
    spec: ModelSpec, settings: Settings, devices: Sequence[NodeDevice], measured: Mapping[str, MeasuredMemory]
) -> NodeOptions:
    """Every option, best first. Where it cannot run at all, one that fails with a clear state."""
    failing = (Option(node=settings.node),)
    store = settings.store_of(spec.path)
    try:
        engine = choose_engine(spec, settings)
        if missing := missing_files(spec, store, engine):
            fetchable = missing if settings.fetch else ()
            problem = missing_file_problem(spec, missing[0])
            return NodeOptions(options=failing, problem=problem, missing=fetchable, engine=engine.name)
        check_files(spec, store, engine)
    except EngineProblem as error:
        return NodeOptions(options=failing, problem=str(error))
    return _all_options(spec, settings, engine, devices, measured)


def options_on_behalf_of(
    other: OnBehalfOf, spec: ModelSpec, settings: Settings, measured: Mapping[str, MeasuredMemory]
) -> NodeOptions:
    """The options of a node that lacks the files, by those that are here."""
    try:
        plugins = ENGINES.discover(settings.engine_plugins).plugins
        engine = plugins.get(other.engine) or choose_engine(spec, settings)
        check_files(spec, settings.store_of(spec.path), engine)
    except EngineProblem as error:
        return NodeOptions(problem=str(error))
    others = msgspec.structs.replace(settings, node=other.node)
    answer = _all_options(spec, others, engine, other.devices, measured)
    return msgspec.structs.replace(answer, engine=other.engine)


def _all_options(
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    devices: Sequence[NodeDevice],
    measured: Mapping[str, MeasuredMemory],
) -> NodeOptions:
    options: list[Option] = []
    problem = None
    for placement in device_placements(spec, engine.name, devices):
        try:
            options.append(_option(spec, settings, engine, placement, measured))
        except EngineProblem as error:
            problem = problem or str(error)
    if options or problem:
        return NodeOptions(options=tuple(options), problem=None if options else problem)
    requested = sorted({need.device for profile in spec.profiles for need in profile.devices})
    return NodeOptions(
        problem=f"node {settings.node} has no {' or '.join(requested)}, which its profiles require"
    )


def device_placements(
    spec: ModelSpec, engine: str, devices: Sequence[NodeDevice]
) -> Iterator[DevicePlacement]:
    """Profiles in their order, each on every set of devices that it fits by name."""
    for profile in spec.profiles or (None,):
        needs = profile.devices if profile else ()
        for chosen in _device_sets(needs, engine, devices):
            given = zip(chosen, needs, strict=False)
            specified = {
                device: need.memory_mib * _MIB for device, need in given if need.memory_mib is not None
            }
            yield DevicePlacement(profile, chosen, specified)


def _device_sets(
    needs: Sequence[DeviceNeed], engine: str, devices: Sequence[NodeDevice]
) -> Iterator[tuple[str, ...]]:
    gpus = [device for device in devices if device.device != CPU and engine not in _ONLY_CPU]
    largest_first = [(gpu.device,) for gpu in sorted(gpus, key=lambda gpu: -gpu.memory_bytes)]
    if not needs:
        # The largest GPU first, then all of them together, then main memory.
        yield from largest_first
        if len(gpus) > 1:
            yield tuple(gpu.device for gpu in gpus)
        yield (CPU,)
    elif len(needs) == 1 and needs[0].device == ANY_GPU:
        yield from largest_first
    elif (chosen := _distinct_devices(needs, devices)) is not None:
        yield chosen


def _distinct_devices(needs: Sequence[DeviceNeed], devices: Sequence[NodeDevice]) -> tuple[str, ...] | None:
    """A device of its own for each need, by id, by name, or any GPU; None if one is missing."""
    free = sorted(devices, key=lambda device: -device.memory_bytes)
    chosen: list[str] = []
    for need in needs:
        fitting = next((device for device in free if device.matches(need.device)), None)
        if fitting is None:
            return None
        free.remove(fitting)
        chosen.append(fitting.device)
    return tuple(chosen)


def _option(
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    placement: DevicePlacement,
    measured: Mapping[str, MeasuredMemory],
) -> Option:
    profile = placement.profile
    if profile is not None and profile.workers:
        return _spread_option(spec, settings, engine, placement, profile)
    before = measured.get(memory_key(settings.node, fingerprint(spec), profile.name if profile else None))
    needs = stored_requirements(spec, settings.store_of(spec.path), engine.name, placement.devices, profile)
    needs = apply_measurements(needs, before) | placement.specified
    return Option(
        node=settings.node,
        profile=profile.name if profile else None,
        devices=placement.devices,
        needs=tuple(MemoryNeed(device=device, memory_bytes=size) for device, size in needs.items()),
        load_s=before.load_s if before else None,
    )


def _spread_option(
    spec: ModelSpec, settings: Settings, engine: Engine, placement: DevicePlacement, profile: Profile
) -> Option:
    """With workers that have no nodes yet. Memory as calculated: nothing was measured on other nodes."""
    if not engine.supports_workers:
        raise EngineProblem(
            f"Profile {profile.name} of {spec.name} has workers; only llama.cpp (llama-server) has them, "
            f"and node {settings.node} would use {engine.name}."
        )
    try:
        spread = spread_requirements(spec, settings.store_of(spec.path), placement.devices, profile)
    except ValueError as error:
        raise EngineProblem(str(error)) from error
    needs = spread.own_bytes | placement.specified
    return Option(
        node=settings.node,
        profile=profile.name,
        devices=placement.devices,
        needs=tuple(MemoryNeed(device=device, memory_bytes=size) for device, size in needs.items()),
        workers=tuple(
            WorkerPlacement(
                node=need.node,
                device=need.device,
                memory_bytes=need.memory_mib * _MIB if need.memory_mib else size,
            )
            for need, size in zip(profile.workers, spread.workers_bytes, strict=True)
        ),
        split=spread.layers,
    )


def memory_key(node: str, spec_fingerprint: str, profile: str | None) -> str:
    """The key of what was measured of a model in one profile on one node."""
    return f"{node}.{spec_fingerprint}.{profile.encode().hex() if profile else 'none'}"
