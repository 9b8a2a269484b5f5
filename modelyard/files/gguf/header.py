"""What a GGUF header says about a model, by names instead of keys."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from modelyard.files.gguf.check import GgufError
from modelyard.files.gguf.formats import FILE_TYPES
from modelyard.files.gguf.parse import Contents, Skipped, Tensor, Value

MAX_LAYERS = 1024
"""Twice as many as llama.cpp loads."""

_BLOCK = re.compile(r"blk\.(\d{1,4})\.")
_INPUT = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_POOLINGS = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


_MAX_NUMBER = 2**32 - 1


class Keys:
    """The entries of one header. A `name` stands below its architecture, a `key` is written out."""

    def __init__(self, values: Mapping[str, Value], architecture: str) -> None:
        self._values = values
        self._prefix = f"{architecture}."

    def number(self, name: str, default: int = 0) -> int:
        """The whole number at ARCHITECTURE.name."""
        return self._whole(name, self._values.get(self._prefix + name, default))

    def per_layer(self, name: str, n_layer: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One number a layer: given as a list, or as one number for all of them."""
        value = self._values.get(self._prefix + name)
        if value is None:
            return default
        if not isinstance(value, tuple):
            return (self._whole(name, value),) * n_layer
        if len(value) < n_layer:
            raise self._wrong(name, f"has {len(value)} values for {n_layer} layers")
        return tuple(self._whole(name, item) for item in value[:n_layer])

    def flags(self, name: str, n_layer: int) -> tuple[bool, ...] | int | None:
        """One flag a layer, or one number that says how they repeat; None where neither is given."""
        if isinstance(self._values.get(self._prefix + name), tuple):
            return tuple(item != 0 for item in self.per_layer(name, n_layer, ()))
        return self.number(name) if self._prefix + name in self._values else None

    def text(self, key: str) -> str | None:
        """The text at `key`; None where there is none or it is too long to be one."""
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def length(self, key: str) -> int:
        """How many elements the array at `key` has; 0 where there is none."""
        value = self._values.get(key)
        if isinstance(value, Skipped):
            return value.length
        return len(value) if isinstance(value, tuple) else 0

    def _whole(self, name: str, value: Value) -> int:
        if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
            raise self._wrong(name, "is no whole number that could be right")
        return int(value)

    def _wrong(self, name: str, what: str) -> GgufError:
        return GgufError(f"The GGUF header's {self._prefix}{name} {what}; the file is damaged.")


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the tensors, by where llama.cpp puts them."""

    input_bytes: int
    """The embeddings of tokens and positions, which stay in main memory."""
    block_bytes: tuple[int, ...]
    """For each layer."""
    output_bytes: int
    """The output matrix and everything else that belongs to no layer."""
    tied_bytes: int
    """Of the input, what serves as the output matrix too, because there is no other."""

    @property
    def total_bytes(self) -> int:
        """All tensors of the files."""
        return self.input_bytes + sum(self.block_bytes) + self.output_bytes


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """Heads and what is kept for each token. Tuples have an element a layer, lengths count numbers."""

    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    key_length: int
    value_length: int
    key_length_swa: int
    """Of the layers that look through a sliding window; so is the next."""
    value_length_swa: int
    sliding_window: int
    """In tokens; 0: not given."""
    sliding_pattern: tuple[bool, ...] | int | None
    """Which layers slide: a flag a layer, or after how many layers the pattern repeats."""
    shared_kv_layers: int
    """So many of the last layers use what earlier ones keep."""
    kv_lora_rank: int
    key_length_mla: int
    """Not 0: latent attention, of which only the keys are kept (DeepSeek)."""
    indexer_key_length: int
    """Not 0: a second, small cache of keys finds what to attend to."""


class Recurrent(msgspec.Struct, frozen=True, kw_only=True):
    """State of a fixed size (Mamba, RWKV and their mixtures with attention); 0 is what is not given."""

    conv_kernel: int
    inner_size: int
    state_size: int
    group_count: int
    wkv_head_size: int
    token_shift_count: int
    shortconv_l_cache: int
    kda_head_dim: int
    full_attention_interval: int
    """Every so many layers one has attention, the others have a state."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A model's header. What a file does not give is 0, or None where 0 would mean something."""

    architecture: str
    kind: str
    """general.type: `model`, `mmproj`, `adapter` and so on."""
    name: str | None
    n_params: int
    """How many weights there are."""
    quant: str
    """Such as `Q4_K_M`: the file's own word, else the type that most of its weights have."""
    n_ctx_train: int
    """Tokens of context that it was trained for."""
    n_layer: int
    n_layer_nextn: int
    """Of these, the last ones that only guess ahead."""
    n_embd: int
    n_ff: tuple[int, ...]
    """Width of the feed-forward part, a layer."""
    n_ff_exp: tuple[int, ...]
    """Width of each expert, a layer."""
    n_expert: int
    n_expert_used: int
    """How many experts see a token."""
    n_vocab: int
    attention: Attention
    recurrent: Recurrent
    pooling: str | None
    """How vectors are made of tokens: `none`, `mean`, `cls`, `last` or `rank`."""
    has_chat_template: bool
    weights: Weights
    n_shards: int

    @property
    def is_mmproj(self) -> bool:
        """Is it a projector for images or sound, which works only beside a model?"""
        return self.kind == "mmproj" or self.architecture == "clip"


def make_header(contents: Contents, *, n_shards: int = 1) -> Header:
    """Give the parsed entries their names; GgufError where they cannot be right."""
    values, tensors = contents.values, contents.tensors
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise GgufError("The GGUF header does not say which architecture the model has; the file is damaged.")
    keys = Keys(values, architecture)
    n_layer = keys.number("block_count")
    if n_layer > MAX_LAYERS:
        raise GgufError(f"The GGUF header claims {n_layer} layers, more than {MAX_LAYERS}; it is damaged.")
    return Header(
        architecture=architecture,
        kind=keys.text("general.type") or "model",
        name=keys.text("general.name"),
        n_params=sum(tensor.n_elements for tensor in tensors),
        quant=_quant(values.get("general.file_type"), tensors),
        n_ctx_train=keys.number("context_length"),
        n_layer=n_layer,
        n_layer_nextn=min(n_layer, keys.number("nextn_predict_layers")),
        n_embd=keys.number("embedding_length"),
        n_ff=keys.per_layer("feed_forward_length", n_layer, (0,) * n_layer),
        n_ff_exp=keys.per_layer("expert_feed_forward_length", n_layer, (0,) * n_layer),
        n_expert=keys.number("expert_count"),
        n_expert_used=max(keys.per_layer("expert_used_count", n_layer, ()), default=0),
        n_vocab=keys.length("tokenizer.ggml.tokens") or keys.number("vocab_size"),
        attention=_attention(keys, n_layer),
        recurrent=_recurrent(keys),
        pooling=_pooling(values.get(f"{architecture}.pooling_type")),
        has_chat_template="tokenizer.chat_template" in values,
        weights=_weights(tensors, n_layer),
        n_shards=n_shards,
    )


def _attention(keys: Keys, n_layer: int) -> Attention:
    n_head = keys.per_layer("attention.head_count", n_layer, (0,) * n_layer)
    head_length = keys.number("embedding_length") // n_head[0] if n_layer and n_head[0] else 0
    key_length = keys.number("attention.key_length", head_length)
    value_length = keys.number("attention.value_length", head_length)
    return Attention(
        n_head=n_head,
        n_head_kv=keys.per_layer("attention.head_count_kv", n_layer, n_head),
        key_length=key_length,
        value_length=value_length,
        key_length_swa=keys.number("attention.key_length_swa", key_length),
        value_length_swa=keys.number("attention.value_length_swa", value_length),
        sliding_window=keys.number("attention.sliding_window"),
        sliding_pattern=keys.flags("attention.sliding_window_pattern", n_layer),
        shared_kv_layers=keys.number("attention.shared_kv_layers"),
        kv_lora_rank=keys.number("attention.kv_lora_rank"),
        key_length_mla=keys.number("attention.key_length_mla"),
        indexer_key_length=keys.number("attention.indexer.key_length"),
    )


def _recurrent(keys: Keys) -> Recurrent:
    return Recurrent(
        conv_kernel=keys.number("ssm.conv_kernel"),
        inner_size=keys.number("ssm.inner_size"),
        state_size=keys.number("ssm.state_size"),
        group_count=keys.number("ssm.group_count"),
        wkv_head_size=keys.number("wkv.head_size"),
        token_shift_count=keys.number("token_shift_count", 2),
        shortconv_l_cache=keys.number("shortconv.l_cache"),
        kda_head_dim=keys.number("kda.head_dim"),
        full_attention_interval=keys.number("full_attention_interval"),
    )


def _pooling(number: Value | None) -> str | None:
    return _POOLINGS.get(number) if isinstance(number, int) else None


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
