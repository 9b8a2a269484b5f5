"""Spreads the layers of a model over worker processes and own devices, with the memory of each. Pure.

llama-server counts its workers as the first devices, before its own GPUs. Main memory gets the first layers.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from modelyard.files.gguf.estimate import (
    CPU_OVERHEAD_BYTES,
    GPU_OVERHEAD_BYTES,
    Estimate,
    RunOptions,
    estimate,
)
from modelyard.files.gguf.header import Header
from schemas.profiles import CPU


class WorkerDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A planned worker: its device, and its memory limit; None: an even share of the layers."""

    device: str
    most_bytes: int | None = None


class LayerSpread(msgspec.Struct, frozen=True, kw_only=True):
    """Layers and memory of every device."""

    layers: tuple[int, ...]
    """By worker, then by own device; the output counts as a layer."""
    workers_bytes: tuple[int, ...]
    own_bytes: dict[str, int]
    """By own device; main memory is always among them."""


def spread_layers(
    header: Header, use: RunOptions, parts: Sequence[WorkerDevice], own: Sequence[str]
) -> LayerSpread:
    """Fill the workers up to their limits and the own devices with the rest; ValueError with a sentence."""
    model = _Model(header, use, tuple(parts), tuple(own))
    counts = _counts(model)
    estimated = model.estimated(counts)
    return LayerSpread(
        layers=tuple(counts),
        workers_bytes=tuple(model.worker_bytes(counts, index) for index in range(len(parts))),
        own_bytes={device: estimated.devices[device].total_bytes for device in dict.fromkeys((CPU, *own))},
    )


class _Model(NamedTuple):
    header: Header
    use: RunOptions
    parts: tuple[WorkerDevice, ...]
    own: tuple[str, ...]

    def estimated(self, counts: Sequence[int]) -> Estimate:
        names = [*map(_name, range(len(self.parts))), *self.own]
        return estimate(self.header, self.use, dict(zip(names, map(float, counts), strict=True)))

    def worker_bytes(self, counts: Sequence[int], index: int) -> int:
        memory = self.estimated(counts).devices[_name(index)]
        overhead = CPU_OVERHEAD_BYTES if self.parts[index].device == CPU else GPU_OVERHEAD_BYTES
        return memory.total_bytes - memory.overhead_bytes + overhead


def _counts(model: _Model) -> list[int]:
    # At least one layer a device: workers in order, then the own devices evenly.
    n_slots, n_devices = model.header.n_layer + 1, len(model.parts) + len(model.own)
    spare = n_slots - n_devices
    if spare < 0:
        raise ValueError(f"the model has {n_slots - 1} layers, too few for {n_devices} devices")
    counts = [1] * n_devices
    for index, part in enumerate(model.parts):
        even = min(max(round(n_slots / n_devices), 1), 1 + spare)
        counts[index] = even if part.most_bytes is None else _fitting(model, counts, index, 1 + spare)
        spare -= counts[index] - 1
    for index in range(len(model.parts), n_devices):
        share = spare // (n_devices - index)
        counts[index] += share
        spare -= share
    return counts


def _fitting(model: _Model, counts: Sequence[int], index: int, most: int) -> int:
    # The layers that fit a worker's limit, at most `most`.

    def size(count: int) -> int:
        tried = [*counts[:index], count, *counts[index + 1 :]]
        tried[-1] += most - count
        return model.worker_bytes(tried, index)

    most_bytes = model.parts[index].most_bytes or 0
    fitting = bisect_right(range(1, most + 1), most_bytes, key=size)
    if fitting == 0:
        raise ValueError(f"a worker with {most_bytes} bytes cannot hold one layer, which takes {size(1)}")
    return fitting


def _name(index: int) -> str:
    # A name that no device has.
    return f"worker {index}"
