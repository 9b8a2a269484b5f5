"""A model's GGUF header as typed fields."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from modelyard.files.gguf.formats import FILE_TYPES
from modelyard.files.gguf.parse import GgufContents, GgufError, Skipped, Tensor, Value

MAX_LAYERS = 1024
"""Limit of layers, twice that of llama.cpp."""

_BLOCK = re.compile(r"blk\.(\d{1,4})\.")
_INPUT = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_POOLINGS = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

_MAX_NUMBER = 2**32 - 1


class _Entries:
    """Typed access to the entries of a header: `name` is below the architecture, `key` is absolute.

    A value of the wrong type or size raises GgufError.
    """

    def __init__(self, values: Mapping[str, Value], architecture: str) -> None:
        self._values = values
        self._prefix = f"{architecture}."

    def number(self, name: str, default: int = 0) -> int:
        return self._whole(name, self._values.get(self._prefix + name, default))

    def per_layer(self, name: str, n_layer: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One number a layer, from an array or from one number for all layers."""
        value = self._values.get(self._prefix + name)
        if value is None:
            return default
        if not isinstance(value, tuple):
            return (self._whole(name, value),) * n_layer
        if len(value) < n_layer:
            raise self._wrong(name, f"has {len(value)} values for {n_layer} layers")
        return tuple(self._whole(name, item) for item in value[:n_layer])

    def flags(self, name: str, n_layer: int) -> tuple[bool, ...] | int | None:
        """One flag a layer, or the period of a repeating pattern; None without an entry."""
        if isinstance(self._values.get(self._prefix + name), tuple):
            return tuple(item != 0 for item in self.per_layer(name, n_layer, ()))
        return self.number(name) if self._prefix + name in self._values else None

    def text(self, key: str) -> str | None:
        """The string at `key`; None where there is none or it was skipped."""
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def length(self, key: str) -> int:
        """Length of the array at `key`; 0 without one."""
        value = self._values.get(key)
        if isinstance(value, Skipped):
            return value.length
        return len(value) if isinstance(value, tuple) else 0

    def _whole(self, name: str, value: Value) -> int:
        if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
            raise self._wrong(name, "is not a plausible whole number")
        return int(value)

    def _wrong(self, name: str, what: str) -> GgufError:
        return GgufError(f"The GGUF header's {self._prefix}{name} {what}; the file is damaged.")


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the tensors, by where llama.cpp places them."""

    input_bytes: int
    """Embeddings of tokens and positions, which stay in main memory."""
    block_bytes: tuple[int, ...]
    """By layer."""
    output_bytes: int
    """The output matrix and other tensors outside of layers."""
    tied_bytes: int
    """Input embeddings that also serve as the output matrix, in a model without one."""

    @property
    def total_bytes(self) -> int:
        return self.input_bytes + sum(self.block_bytes) + self.output_bytes


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """Heads and cache sizes for each token. Tuples have one element a layer; lengths count numbers."""

    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    key_length: int
    value_length: int
    key_length_swa: int
    """Of layers with a sliding window, like the next field."""
    value_length_swa: int
    sliding_window: int
    """In tokens; 0 if absent."""
    sliding_pattern: tuple[bool, ...] | int | None
    """Layers with a sliding window: a flag a layer, or the period of the pattern."""
    shared_kv_layers: int
    """Number of last layers that share the cache of earlier ones."""
    kv_lora_rank: int
    key_length_mla: int
    """Not 0: latent attention, which caches keys only (DeepSeek)."""
    indexer_key_length: int
    """Not 0: sparse attention with a second, small cache of entries."""


class Recurrent(msgspec.Struct, frozen=True, kw_only=True):
    """Recurrent state of a fixed size (Mamba, RWKV and hybrids with attention); 0 if absent."""

    conv_kernel: int
    inner_size: int
    state_size: int
    group_count: int
    wkv_head_size: int
    token_shift_count: int
    shortconv_l_cache: int
    kda_head_dim: int
    full_attention_interval: int
    """One in this many layers has attention, the others have a state."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A model's header. An absent entry is 0, or None where 0 is a value."""

    architecture: str
    kind: str
    """general.type: `model`, `mmproj`, `adapter` and so on."""
    name: str | None
    n_params: int
    """Number of weights."""
    quant: str
    """Such as `Q4_K_M`: the file type, or without one the type of most weights."""
    n_ctx_train: int
    """Trained context in tokens."""
    n_layer: int
    n_layer_nextn: int
    """Number of last layers for multi-token prediction."""
    n_embd: int
    n_ff: tuple[int, ...]
    """Width of the feed-forward part by layer."""
    n_ff_exp: tuple[int, ...]
    """Width of an expert by layer."""
    n_expert: int
    n_expert_used: int
    """Experts for each token."""
    n_vocab: int
    attention: Attention
    recurrent: Recurrent
    pooling: str | None
    """Pooling of token vectors: `none`, `mean`, `cls`, `last` or `rank`."""
    has_chat_template: bool
    weights: Weights
    n_shards: int

    @property
    def is_mmproj(self) -> bool:
        """A projector for images or sound, which needs a model."""
        return self.kind == "mmproj" or self.architecture == "clip"


def make_header(contents: GgufContents, *, n_shards: int = 1) -> Header:
    """The header from parsed contents; GgufError for implausible entries."""
    values, tensors = contents.values, contents.tensors
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise GgufError("The GGUF header has no architecture; the file is damaged.")
    entries = _Entries(values, architecture)
    n_layer = entries.number("block_count")
    if n_layer > MAX_LAYERS:
        raise GgufError(f"The GGUF header claims {n_layer} layers, more than {MAX_LAYERS}; it is damaged.")
    pooling = values.get(f"{architecture}.pooling_type")
    return Header(
        architecture=architecture,
        kind=entries.text("general.type") or "model",
        name=entries.text("general.name"),
        n_params=sum(tensor.n_elements for tensor in tensors),
        quant=_quant(values.get("general.file_type"), tensors),
        n_ctx_train=entries.number("context_length"),
        n_layer=n_layer,
        n_layer_nextn=min(n_layer, entries.number("nextn_predict_layers")),
        n_embd=entries.number("embedding_length"),
        n_ff=entries.per_layer("feed_forward_length", n_layer, (0,) * n_layer),
        n_ff_exp=entries.per_layer("expert_feed_forward_length", n_layer, (0,) * n_layer),
        n_expert=entries.number("expert_count"),
        n_expert_used=max(entries.per_layer("expert_used_count", n_layer, ()), default=0),
        n_vocab=entries.length("tokenizer.ggml.tokens") or entries.number("vocab_size"),
        attention=_attention(entries, n_layer),
        recurrent=_recurrent(entries),
        pooling=_POOLINGS.get(pooling) if isinstance(pooling, int) else None,
        has_chat_template="tokenizer.chat_template" in values,
        weights=_weights(tensors, n_layer),
        n_shards=n_shards,
    )


def _attention(entries: _Entries, n_layer: int) -> Attention:
    n_head = entries.per_layer("attention.head_count", n_layer, (0,) * n_layer)
    head_length = entries.number("embedding_length") // n_head[0] if n_layer and n_head[0] else 0
    key_length = entries.number("attention.key_length", head_length)
    value_length = entries.number("attention.value_length", head_length)
    return Attention(
        n_head=n_head,
        n_head_kv=entries.per_layer("attention.head_count_kv", n_layer, n_head),
        key_length=key_length,
        value_length=value_length,
        key_length_swa=entries.number("attention.key_length_swa", key_length),
        value_length_swa=entries.number("attention.value_length_swa", value_length),
        sliding_window=entries.number("attention.sliding_window"),
        sliding_pattern=entries.flags("attention.sliding_window_pattern", n_layer),
        shared_kv_layers=entries.number("attention.shared_kv_layers"),
        kv_lora_rank=entries.number("attention.kv_lora_rank"),
        key_length_mla=entries.number("attention.key_length_mla"),
        indexer_key_length=entries.number("attention.indexer.key_length"),
    )


def _recurrent(entries: _Entries) -> Recurrent:
    return Recurrent(
        conv_kernel=entries.number("ssm.conv_kernel"),
        inner_size=entries.number("ssm.inner_size"),
        state_size=entries.number("ssm.state_size"),
        group_count=entries.number("ssm.group_count"),
        wkv_head_size=entries.number("wkv.head_size"),
        token_shift_count=entries.number("token_shift_count", 2),
        shortconv_l_cache=entries.number("shortconv.l_cache"),
        kda_head_dim=entries.number("kda.head_dim"),
        full_attention_interval=entries.number("full_attention_interval"),
    )


def _quant(number: Value | None, tensors: Sequence[Tensor]) -> str:
    if isinstance(number, int) and number in FILE_TYPES:
        return FILE_TYPES[number]
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.kind.name] += tensor.n_elements
    return max(elements, key=elements.__getitem__, default="unknown")


def _weights(tensors: Sequence[Tensor], n_layer: int) -> Weights:
    blocks, sizes = [0] * n_layer, {tensor.name: tensor.size_bytes for tensor in tensors}
    input_bytes = output_bytes = 0
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        if block and int(block[1]) < n_layer:
            blocks[int(block[1])] += tensor.size_bytes
        elif tensor.name.startswith(_INPUT):
            input_bytes += tensor.size_bytes
        else:
            output_bytes += tensor.size_bytes
    return Weights(
        input_bytes=input_bytes,
        block_bytes=tuple(blocks),
        output_bytes=output_bytes,
        tied_bytes=0 if "output.weight" in sizes else sizes.get("token_embd.weight", 0),
    )
