"""Metadata of safetensors models, read without loading them."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from schemas.base import Record

R = TypeVar("R", bound=Record)
T = TypeVar("T")

CHAT_TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})
CARD_FILES = (
    *("config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json"),
    *("1_Pooling/config.json", "chat_template.jinja", "chat_template.json"),
)
"""Small files that describe a model."""
CARD_FILE_BYTES = 4 * 1024 * 1024
"""Larger files are skipped."""

_TORCH_BYTES = 1024**3
"""PyTorch's own memory beside the weights."""
_TORCH_PERCENT = 120
"""Weights with activations, in percent of the size of their files."""
_MAX_HEADER_BYTES = 64 * 1024 * 1024
_MOST_TOKENS = 16_777_216
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}


class ModelCard(Record):
    """Metadata from the small files of a model; empty or None where they lack it."""

    architectures: tuple[str, ...] = ()
    """The classes of the transformers library, such as `Qwen2ForCausalLM`."""
    model_type: str | None = None
    n_labels: int | None = None
    """Number of classes of a classifier; a reranker has one."""
    modules: tuple[str, ...] = ()
    """Modules of sentence-transformers; empty for other models."""
    pooling: str | None = None
    has_chat_template: bool = False
    n_ctx_train: int | None = None
    """Trained context in tokens."""


class _TextConfig(Record):
    max_position_embeddings: int | None = None
    num_hidden_layers: int | None = None
    hidden_size: int | None = None


class _Quantization(Record):
    quant_method: str | None = None
    bits: int | None = None


class ModelConfig(_TextConfig):
    """The fields of config.json that are used; None where it lacks them."""

    architectures: tuple[str, ...] | None = None
    model_type: str | None = None
    num_local_experts: int | None = None
    num_experts: int | None = None
    n_routed_experts: int | None = None
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None
    quantization_config: _Quantization | None = None
    text_config: _TextConfig | None = None

    @property
    def text(self) -> _TextConfig:
        """The configuration of the text part; an empty one in a model of text alone."""
        return self.text_config or _TextConfig()

    @property
    def quant(self) -> str | None:
        """The method of quantization and its bits, such as `awq-4bit`."""
        quantized = self.quantization_config
        if quantized is None or quantized.quant_method is None:
            return None
        return quantized.quant_method + (f"-{quantized.bits}bit" if quantized.bits else "")


class TokenizerConfig(Record):
    """The fields of tokenizer_config.json that are used."""

    model_max_length: float | None = None
    chat_template: Any = None


class _Sentences(Record):
    max_seq_length: int | None = None


class _Module(Record):
    type: str = ""


class _Tensor(Record):
    dtype: str
    shape: tuple[int, ...]


def check_safetensors(folder: Path) -> None:
    """ValueError with a sentence unless the folder is laid out as a safetensors model."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ValueError("The folder has no config.json; it must be a model's folder as the hub has it.")
    if not weight_files(folder):
        raise ValueError("The folder has no .safetensors files; weights of other kinds can hold programs.")


def weight_files(folder: Path) -> list[Path]:
    """Files with weights; some models have a folder of them for each module."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def torch_bytes(weights_bytes: int) -> int:
    """Approximate memory of a model with weight files of this size."""
    return weights_bytes * _TORCH_PERCENT // 100 + _TORCH_BYTES


def trained_context(folder: Path) -> int | None:
    """Trained context in tokens; None if its files lack it."""
    return read_stored_card(folder).n_ctx_train


def read_stored_card(folder: Path) -> ModelCard:
    texts = {}
    for name in CARD_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size <= CARD_FILE_BYTES:
            texts[name] = path.read_bytes()
    return parse_card(texts)


def parse_card(texts: Mapping[str, bytes]) -> ModelCard:
    """The card from the contents of files by name; an invalid file counts as missing."""
    config = read_record(texts.get("config.json"), ModelConfig)
    tokenizer = read_record(texts.get("tokenizer_config.json"), TokenizerConfig)
    sentences = read_record(texts.get("sentence_bert_config.json"), _Sentences)
    modules = _decode(texts.get("modules.json"), list[_Module], [])
    pooling = _decode(texts.get("1_Pooling/config.json"), dict[str, Any], {})
    return ModelCard(
        architectures=config.architectures or (),
        model_type=config.model_type,
        n_labels=len(config.id2label) if config.id2label else config.num_labels,
        modules=tuple(module.type.rpartition(".")[2] for module in modules),
        pooling=next((name for key, name in _POOLINGS.items() if pooling.get(key) is True), None),
        has_chat_template=bool(tokenizer.chat_template or CHAT_TEMPLATES & texts.keys()),
        n_ctx_train=_trained(config, sentences, tokenizer),
    )


def read_record(data: bytes | None, kind: type[R]) -> R:
    """A record from JSON; a field of another type counts as missing, and so does an invalid file."""
    values, fields = _decode(data, dict[str, msgspec.Raw], {}), {}
    for field in msgspec.structs.fields(kind):
        if (value := values.get(field.encode_name)) is not None:
            with suppress(msgspec.DecodeError, RecursionError):
                fields[field.name] = msgspec.json.decode(value, type=field.type)
    return kind(**fields)


def _decode(data: bytes | None, kind: type[T], default: T) -> T:
    try:
        return msgspec.json.decode(data, type=kind) if data else default
    except (msgspec.DecodeError, RecursionError):
        return default


def count_elements(file: BinaryIO, size_bytes: int) -> Counter[str]:
    """The weights of an open file by element type, from its header; ValueError with a reason."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size_bytes - 8, _MAX_HEADER_BYTES):
        raise ValueError("is not a safetensors file, or it is truncated.")
    elements: Counter[str] = Counter()
    try:
        header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        for value in header.values():
            tensor = msgspec.json.decode(value, type=_Tensor)
            elements[tensor.dtype] += prod(tensor.shape)
    except ValueError:
        raise ValueError("has a damaged header.") from None
    return elements


def _trained(config: ModelConfig, sentences: _Sentences, tokenizer: TokenizerConfig) -> int | None:
    limits = (
        config.max_position_embeddings or config.text.max_position_embeddings,
        sentences.max_seq_length,
        tokenizer.model_max_length,
    )
    # A tokenizer without a limit has 10**30.
    return min((int(tokens) for tokens in limits if tokens and 1 <= tokens <= _MOST_TOKENS), default=None)
