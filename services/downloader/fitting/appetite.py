"""How much memory a model would take, by context and devices, before its files are here."""

from collections.abc import Callable, Sequence

import msgspec

from modelyard.gguf.estimate import Use, estimate
from modelyard.gguf.header import Header, Weights
from modelyard.safetensors import torch_bytes
from schemas.models import Mode, ModelSpec
from schemas.profiles import CPU

Appetite = Callable[[int, Sequence[str]], dict[str, int]]
"""From a context in tokens and devices to bytes a device."""

_GENERATING = (Mode.CHAT, Mode.COMPLETION)
_N_PARALLEL = ModelSpec(name="any", path="any").n_parallel


def gguf_appetite(header: Header, mode: Mode, mmproj_bytes: int = 0) -> Appetite:
    """By llama.cpp's own rules, as the scheduler will count."""

    def appetite(n_ctx: int, devices: Sequence[str]) -> dict[str, int]:
        use = Use(
            n_ctx=n_ctx,
            n_parallel=_N_PARALLEL,
            # For text, one row of logits a slot is reserved; vectors need all.
            n_outputs=_N_PARALLEL if mode in _GENERATING else None,
            mmproj_bytes=mmproj_bytes,
        )
        shares = None if tuple(devices) == (CPU,) else dict.fromkeys(devices, 1.0)
        found = estimate(header, use, shares)
        return {device: memory.total_bytes for device, memory in found.devices.items()}

    return appetite


def torch_appetite(weights_bytes: int) -> Appetite:
    """By the size of the files: engines for safetensors take what cache they are given."""
    total = torch_bytes(weights_bytes)

    def appetite(_n_ctx: int, devices: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(devices, -(-total // len(devices)))

    return appetite


def of_size(header: Header, size_bytes: int, *, whole: bool) -> Header:
    """The same model in files of another size: another quant, or of a header only the first shard's.

    `whole`: the header lists all its tensors, so they keep their proportions; else layers are taken as alike.
    """
    weights, n_layer = header.weights, max(1, header.n_layer)
    if whole and weights.total_bytes:
        return _with(
            header,
            Weights(
                input_bytes=_scaled(weights.input_bytes, size_bytes, weights),
                block_bytes=tuple(_scaled(block, size_bytes, weights) for block in weights.block_bytes),
                output_bytes=_scaled(weights.output_bytes, size_bytes, weights),
                tied_bytes=_scaled(weights.tied_bytes, size_bytes, weights),
            ),
        )
    ends = min(weights.input_bytes, size_bytes // 4)
    block = max(0, size_bytes - 2 * ends) // n_layer
    even = Weights(input_bytes=ends, block_bytes=(block,) * header.n_layer, output_bytes=ends, tied_bytes=0)
    return _with(header, even)


def _scaled(part: int, size_bytes: int, weights: Weights) -> int:
    return -(-part * size_bytes // weights.total_bytes)


def _with(header: Header, weights: Weights) -> Header:
    return msgspec.structs.replace(header, weights=weights)
