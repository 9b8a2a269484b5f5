"""How much memory a model will take: calculated from its files, corrected by what was measured."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from modelyard.bus import logs
from modelyard.gguf.errors import GgufError
from modelyard.gguf.estimate import Use, estimate
from modelyard.gguf.files import read_model
from modelyard.gguf.header import Header
from modelyard.gguf.measured import Measured, correct
from modelyard.gguf.spread import Part, Spread, spread
from modelyard.host.paths import resolve_inside
from modelyard.plugins import EngineProblem
from modelyard.safetensors import torch_bytes, weights
from schemas.models import Mode, ModelSpec
from schemas.placing import MeasuredMemory
from schemas.profiles import CPU, Profile

log = logs.get(__name__)

_MIB = 1024 * 1024
_GENERATING = (Mode.CHAT, Mode.COMPLETION)


def memory_requirements(
    spec: ModelSpec, store: Path, engine: str, devices: Sequence[str], profile: Profile | None
) -> dict[str, int]:
    """Bytes by device; empty where nothing can be calculated, as for the program of a `command` engine."""
    path = resolve_inside(store, spec.path)
    if path.is_dir():
        size_bytes = sum(part.stat().st_size for part in weights(path))
        devices = devices or (CPU,)
        return dict.fromkeys(devices, -(-torch_bytes(size_bytes) // len(devices)))
    if not path.is_file() or path.suffix != ".gguf" or engine == "command":
        return {}
    try:
        header = _header(path, path.stat().st_mtime_ns, path.stat().st_size)
    except (GgufError, OSError) as error:
        log.warning("no_estimate", model=spec.name, error=str(error))
        return {}
    shares = None if tuple(devices) in ((CPU,), ()) else dict.fromkeys(devices, 1.0)
    found = estimate(header, _use(spec, store, profile), shares)
    return {device: memory.total_bytes for device, memory in found.devices.items()}


def spread_memory_requirements(
    spec: ModelSpec, store: Path, devices: Sequence[str], profile: Profile
) -> Spread:
    """The parts of the workers of a profile and of this node; EngineProblem if it cannot be spread."""
    path = resolve_inside(store, spec.path)
    parts = [
        Part(device=need.device, most_bytes=need.memory_mib and need.memory_mib * _MIB)
        for need in profile.workers
    ]
    own = tuple(device for device in devices if device != CPU) or (CPU,)
    try:
        header = _header(path, path.stat().st_mtime_ns, path.stat().st_size)
        return spread(header, _use(spec, store, profile), parts, own)
    except (GgufError, OSError, ValueError) as error:
        raise EngineProblem(f"{spec.name} cannot be spread as in profile {profile.name}: {error}.") from error


def corrected(needs: dict[str, int], known: MeasuredMemory | None) -> dict[str, int]:
    """`needs`, corrected by what was measured."""
    if known is None:
        return needs
    return {device: correct(size, _measured(known, device)) for device, size in needs.items()}


def _measured(known: MeasuredMemory, device: str) -> list[Measured]:
    return [Measured(use.used_bytes, use.predicted_bytes) for use in known.uses if use.device == device]


def _use(spec: ModelSpec, store: Path, profile: Profile | None) -> Use:
    n_parallel = (profile and profile.n_parallel) or spec.n_parallel
    return Use(
        n_ctx=(profile and profile.n_ctx) or spec.n_ctx,
        n_parallel=n_parallel,
        cache_type=spec.cache_type,
        # For text, one row of logits a slot is reserved; vectors need all.
        n_outputs=n_parallel if spec.mode in _GENERATING else None,
        mmproj_bytes=_size(store, spec.mmproj),
        lora_bytes=sum(_size(store, lora.path) for lora in spec.loras),
    )


def _size(store: Path, path: str | None) -> int:
    return resolve_inside(store, path).stat().st_size if path else 0


@lru_cache(maxsize=256)
def _header(path: Path, _changed_at: int, _size_bytes: int) -> Header:
    return read_model(path)
