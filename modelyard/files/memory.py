"""The memory a model needs on each device: calculated from its files, corrected by what was measured."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from modelyard.bus import logs
from modelyard.files.gguf.estimate import RunOptions, estimate
from modelyard.files.gguf.header import Header, Weights
from modelyard.files.gguf.parse import GgufError
from modelyard.files.gguf.reader import read_model
from modelyard.files.gguf.spread import LayerSpread, WorkerDevice, spread_layers
from modelyard.files.safetensors import torch_bytes, weight_files
from modelyard.host.paths import resolve_inside
from schemas.models import Mode, ModelSpec
from schemas.placement import MeasuredMemory
from schemas.profiles import CPU, Profile

log = logs.get(__name__)

RECENT = 5
"""Number of latest measurements that count."""
MARGIN_PERCENT = 3
"""Added to a measurement, which may have been taken below the peak load."""
FLOOR_PERCENT = 50
"""Lower bound of a correction, of the estimate: a process's measured memory excludes pages it reserved but
has not touched."""

_MIB = 1024 * 1024
_GENERATING = (Mode.CHAT, Mode.COMPLETION)
_N_PARALLEL = ModelSpec(name="any", path="any").n_parallel


class ModelSizes(NamedTuple):
    """A GGUF header, or without one the size of safetensors weights; and the files beside the weights."""

    header: Header | None = None
    weights_bytes: int = 0
    mmproj_bytes: int = 0
    lora_bytes: int = 0


def memory_requirements(
    files: ModelSizes,
    mode: Mode,
    n_ctx: int,
    devices: Sequence[str],
    *,
    n_parallel: int = _N_PARALLEL,
    cache_type: str = "f16",
) -> dict[str, int]:
    """Bytes by device, main memory without devices.

    GGUF follows llama.cpp's rules. Safetensors are split evenly: their engines size the cache to the memory
    they are given.
    """
    if files.header is None:
        places = devices or (CPU,)
        return dict.fromkeys(places, -(-torch_bytes(files.weights_bytes) // len(places)))
    shares = None if tuple(devices) in ((CPU,), ()) else dict.fromkeys(devices, 1.0)
    memory = estimate(files.header, _use(files, mode, n_ctx, n_parallel, cache_type), shares)
    return {device: part.total_bytes for device, part in memory.devices.items()}


def stored_requirements(
    spec: ModelSpec, store: Path, engine: str, devices: Sequence[str], profile: Profile | None
) -> dict[str, int]:
    """Bytes by device of a model in the store; empty where they are unknown, as with engine `command`."""
    path = resolve_inside(store, spec.path)
    if not path.is_dir() and (not path.is_file() or path.suffix != ".gguf" or engine == "command"):
        return {}
    try:
        files = _stored_files(spec, store)
    except (GgufError, OSError) as error:
        log.warning("memory_estimate_failed", model=spec.name, error=str(error))
        return {}
    return memory_requirements(
        files,
        spec.mode,
        (profile and profile.n_ctx) or spec.n_ctx,
        devices,
        n_parallel=(profile and profile.n_parallel) or spec.n_parallel,
        cache_type=spec.cache_type,
    )


def spread_requirements(
    spec: ModelSpec, store: Path, devices: Sequence[str], profile: Profile
) -> LayerSpread:
    """Layers and memory of a profile's workers and of this node; ValueError with a sentence if none fit."""
    parts = [
        WorkerDevice(device=need.device, most_bytes=need.memory_mib and need.memory_mib * _MIB)
        for need in profile.workers
    ]
    own = tuple(device for device in devices if device != CPU) or (CPU,)
    n_ctx, n_parallel = profile.n_ctx or spec.n_ctx, profile.n_parallel or spec.n_parallel
    try:
        files = _stored_files(spec, store)
        if files.header is None:
            raise GgufError(f"{spec.path} is not a GGUF file")
        return spread_layers(
            files.header, _use(files, spec.mode, n_ctx, n_parallel, spec.cache_type), parts, own
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{spec.name} cannot be spread over the devices of profile {profile.name}: {error}."
        ) from error


def apply_measurements(needs: dict[str, int], measurements: MeasuredMemory | None) -> dict[str, int]:
    """Requirements by device, corrected by what instances of the same model and profile took."""
    if measurements is None:
        return needs
    measured: defaultdict[str, list[int]] = defaultdict(list)
    for use in measurements.uses:
        measured[use.device].append(use.used_bytes)
    return {device: correct(size, measured[device]) for device, size in needs.items()}


def correct(estimate_bytes: int, used_bytes: Sequence[int]) -> int:
    """The estimate for one device corrected by measurements, the oldest first.

    They ran the same files, profile, context, slots and cache type: the largest recent one with a margin
    replaces the estimate.
    """
    if not used_bytes:
        return estimate_bytes
    floor = _percent(estimate_bytes, FLOOR_PERCENT)
    return max(floor, _percent(max(used_bytes[-RECENT:]), 100 + MARGIN_PERCENT))


def scale_header(header: Header, size_bytes: int, *, complete: bool) -> Header:
    """The header of the same model in files of another size: another quant, or all shards instead of one.

    `complete`: the header lists all tensors of the model, so the proportions stay; else layers are taken as
    equal.
    """
    weights, n_layer = header.weights, max(1, header.n_layer)
    if complete and weights.total_bytes:

        def scaled(part: int) -> int:
            return -(-part * size_bytes // weights.total_bytes)

        sized = Weights(
            input_bytes=scaled(weights.input_bytes),
            block_bytes=tuple(map(scaled, weights.block_bytes)),
            output_bytes=scaled(weights.output_bytes),
            tied_bytes=scaled(weights.tied_bytes),
        )
    else:
        ends = min(weights.input_bytes, size_bytes // 4)
        block = max(0, size_bytes - 2 * ends) // n_layer
        sized = Weights(
            input_bytes=ends, block_bytes=(block,) * header.n_layer, output_bytes=ends, tied_bytes=0
        )
    return msgspec.structs.replace(header, weights=sized)


def _stored_files(spec: ModelSpec, store: Path) -> ModelSizes:
    path = resolve_inside(store, spec.path)
    if path.is_dir():
        return ModelSizes(weights_bytes=sum(part.stat().st_size for part in weight_files(path)))
    status = path.stat()
    return ModelSizes(
        header=_header(path, status.st_mtime_ns, status.st_size),
        mmproj_bytes=_size(store, spec.mmproj),
        lora_bytes=sum(_size(store, lora.path) for lora in spec.loras),
    )


@lru_cache(maxsize=256)
def _header(path: Path, _modified_ns: int, _size_bytes: int) -> Header:
    return read_model(path)


def _size(store: Path, path: str | None) -> int:
    return resolve_inside(store, path).stat().st_size if path else 0


def _use(files: ModelSizes, mode: Mode, n_ctx: int, n_parallel: int, cache_type: str) -> RunOptions:
    return RunOptions(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        cache_type=cache_type,
        # Text generation reserves one row of logits a slot; embeddings need all.
        n_outputs=n_parallel if mode in _GENERATING else None,
        mmproj_bytes=files.mmproj_bytes,
        lora_bytes=files.lora_bytes,
    )


def _percent(amount: int, percent: int) -> int:
    return -(-amount * percent // 100)
