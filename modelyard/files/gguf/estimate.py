"""The memory llama.cpp takes for a model, calculated from its header and run options. Pure.

Sources are llama.cpp's own allocations: llama-model.cpp (load_tensors, create_memory), llama-kv-cache.cpp,
llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp and llama-context.cpp (sched_reserve).
Weights, cache and state equal what llama.cpp reports; the compute buffer is an upper bound. The cache of old
prompts in main memory (`--cache-ram`, context checkpoints) grows later and is not counted.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from modelyard.files.gguf.formats import BY_NAME
from modelyard.files.gguf.header import Header
from modelyard.files.gguf.layers import Layer, is_encoder, make_layers
from schemas.profiles import CPU

_MIB = 1024 * 1024
GPU_OVERHEAD_BYTES = 512 * _MIB
"""Memory of a process on a GPU beside llama.cpp's buffers: CUDA context, kernels, cuBLAS workspaces."""
CPU_OVERHEAD_BYTES = 32 * _MIB
"""Main memory of the process beside them."""
MMPROJ_COMPUTE_BYTES = 512 * _MIB
"""A projector's compute buffer; it depends on the size of images, this is typical."""

_CELL_PADDING = 256
_STATE_BYTES = 4
_PIPELINE_COPIES = 4
"""GGML_SCHED_MAX_COPIES: batches in flight with several GPUs."""
_FLOAT_BYTES = 4
_RESIDUALS = 8
"""Residual stream, its normed copy, results of attention and feed-forward, and input embeddings."""
_FEED_FORWARD_COPIES = 3
"""gate, up and their product."""
_ATTENTION_COPIES = 4
"""Queries, keys, values and the result."""
_STATE_COPIES = 6
"""Intermediate results of a recurrent layer."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Run options, named as llama-server's."""

    n_ctx: int
    """Tokens, shared by the slots (`--kv-unified`)."""
    n_parallel: int = 1
    """Slots."""
    cache_type: str = "f16"
    """Of keys and values."""
    n_ubatch: int = 512
    """Tokens in one pass through the layers."""
    n_outputs: int | None = None
    """Rows of logits to reserve; None: one a token, as older versions do and embeddings need. Newer versions
    reserve one a slot for text."""
    flash_attention: bool = True
    mmproj_bytes: int = 0
    """Size of the projector file."""
    lora_bytes: int = 0
    """Size of all adapter files."""

    def __post_init__(self) -> None:
        if self.cache_type not in BY_NAME:
            raise ValueError(f"The cache type {self.cache_type} is unknown.")
        if min(self.n_ctx, self.n_parallel, self.n_ubatch) < 1:
            raise ValueError("n_ctx, n_parallel and n_ubatch must be at least 1.")


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    weights_bytes: int = 0
    """Model and adapters."""
    cache_bytes: int = 0
    """Keys, values and recurrent states."""
    compute_bytes: int = 0
    mmproj_bytes: int = 0
    """Projector with its compute buffer."""
    overhead_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        parts = (self.weights_bytes, self.cache_bytes, self.compute_bytes, self.mmproj_bytes)
        return sum(parts) + self.overhead_bytes


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Memory by device; main memory (`cpu`) is always among them."""

    devices: dict[str, DeviceMemory]

    @property
    def total_bytes(self) -> int:
        return sum(memory.total_bytes for memory in self.devices.values())


def estimate(header: Header, use: RunOptions, shares: Mapping[str, float] | None = None) -> Estimate:
    """The memory of a model with these run options.

    `shares` are the devices and their proportions in the engine's order (`--tensor-split`): `cpu` is main
    memory, which gets the first layers, every other name is a GPU. None: `cpu` alone.
    """
    parts = shares or {CPU: 1.0}
    if min(parts.values()) <= 0:
        raise ValueError("The share of a device must be more than 0.")
    places = _places(parts, header.n_layer + 1)
    gpus = [device for device in parts if device != CPU]
    devices = (CPU, *gpus)
    return Estimate(devices={device: _memory(header, use, device, places, gpus) for device in devices})


def cache_bytes(layer: Layer, use: RunOptions) -> int:
    """Cache of one layer: cells of keys and values, and a state for each slot."""
    kind = BY_NAME[use.cache_type]
    lengths = (layer.key_length, layer.value_length, layer.indexer_length)
    cell_bytes = sum(kind.size_bytes(length) for length in lengths)
    return n_cells(layer, use) * cell_bytes + use.n_parallel * layer.state_length * _STATE_BYTES


def n_cells(layer: Layer, use: RunOptions) -> int:
    """Cells of a layer: the context, or each slot's window and a batch."""
    n_ctx = _padded(use.n_ctx)
    if not layer.window:
        return n_ctx
    return _padded(min(n_ctx, layer.window * use.n_parallel + use.n_ubatch))


def _memory(
    header: Header, use: RunOptions, device: str, places: Sequence[str], gpus: Sequence[str]
) -> DeviceMemory:
    layers = [index for index in range(header.n_layer) if places[index] == device]
    all_layers = make_layers(header)
    has_output = places[-1] == device
    mmproj_bytes = use.mmproj_bytes + MMPROJ_COMPUTE_BYTES if use.mmproj_bytes else 0
    return DeviceMemory(
        weights_bytes=_weights_bytes(header, device, layers, has_output)
        + -(-use.lora_bytes * (len(layers) + has_output) // len(places)),
        cache_bytes=sum(cache_bytes(all_layers[index], use) for index in layers),
        compute_bytes=_compute_bytes(header, use, all_layers, device, device in places, len(gpus)),
        mmproj_bytes=mmproj_bytes if device == (gpus[0] if gpus else CPU) else 0,
        overhead_bytes=CPU_OVERHEAD_BYTES if device == CPU else GPU_OVERHEAD_BYTES,
    )


def _places(shares: Mapping[str, float], n_slots: int) -> tuple[str, ...]:
    # The device of each layer and, last, of the output, as in load_tensors(): main memory first.
    order = sorted(shares, key=lambda device: device != CPU)
    bounds = [bound / sum(shares.values()) for bound in accumulate(shares[device] for device in order)]
    return tuple(
        next(
            (device for device, bound in zip(order, bounds, strict=True) if bound > slot / n_slots), order[-1]
        )
        for slot in range(n_slots)
    )


def _weights_bytes(header: Header, device: str, layers: Sequence[int], has_output: bool) -> int:
    weights = header.weights
    total = sum(weights.block_bytes[index] for index in layers)
    if device == CPU:
        total += weights.input_bytes
    if has_output:
        total += weights.output_bytes
    if has_output and device != CPU and not is_encoder(header):
        # Tied embeddings are copied to the GPU as the output matrix.
        total += weights.tied_bytes
    return total


def _compute_bytes(
    header: Header, use: RunOptions, layers: Sequence[Layer], device: str, takes_part: bool, n_gpus: int
) -> int:
    n_batch = min(use.n_ubatch, _padded(use.n_ctx))
    # One mask for the whole context, one for windows; without a cache tokens attend to their batch.
    cells = sum({n_cells(layer, use) for layer in layers if layer.key_length}) or n_batch
    masks = mask_bytes(n_batch=n_batch, n_cells=cells) * (_PIPELINE_COPIES if n_gpus > 1 else 1)
    # Logits and embeddings, one row a slot, in main memory.
    outputs = use.n_parallel * (header.n_vocab + header.n_embd) * _FLOAT_BYTES if device == CPU else 0
    return masks + outputs + (_activation_bytes(header, use, n_batch, cells) if takes_part else 0)


def _padded(cells: int) -> int:
    return -(-cells // _CELL_PADDING) * _CELL_PADDING


def _activation_bytes(header: Header, use: RunOptions, n_batch: int, n_cells: int) -> int:
    """Upper bound of the compute buffer without masks and outputs, needed once on every device.

    ggml overlays the tensors of a graph as far as their lifetimes allow, so the buffer is what lives
    throughout plus the largest tensor beside it. The factors come from what llama-server reports
    (`sched_reserve: compute buffer size`) for the architectures llama, qwen3, qwen3moe, gemma3, deepseek2,
    lfm2, bert and mamba: 5 x width + 3 x feed-forward for most. Rounded up, with N tokens in a batch and
    floats of 4 bytes:

        N x (8 x width + the largest of: feed-forward, attention, scores, state, logits) + the mask, N x cells
    """
    n_head = max(header.attention.n_head, default=0)
    n_outputs = n_batch if use.n_outputs is None else min(n_batch, use.n_outputs)
    dense = _FEED_FORWARD_COPIES * max(header.n_ff, default=0)
    expert = _FEED_FORWARD_COPIES * max(header.n_ff_exp, default=0) + header.n_embd
    widest = max(
        dense,
        header.n_expert_used * expert,
        _ATTENTION_COPIES * n_head * header.attention.key_length,
        0 if use.flash_attention else n_head * n_cells,
        _STATE_COPIES * header.recurrent.inner_size,
        0 if is_encoder(header) else -(-header.n_vocab * n_outputs // n_batch),
    )
    return n_batch * (_RESIDUALS * header.n_embd + widest) * _FLOAT_BYTES


def mask_bytes(*, n_batch: int, n_cells: int) -> int:
    """Attention mask; with flash attention newer versions take half of it."""
    return n_batch * n_cells * _FLOAT_BYTES
