"""What a model of safetensors says of itself, read without loading it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from schemas.base import Record

R = TypeVar("R", bound=Record)

CARD_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""The small files that say what a model is."""
CARD_FILE_BYTES = 4 * 1024 * 1024
"""A larger one is not read."""

_TORCH_BYTES = 1024**3
"""What PyTorch itself takes beside a model's weights."""
_TORCH_PERCENT = 120
"""Weights and what is computed in, of their files' size."""
_MOST_TOKENS = 16_777_216
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}


class Card(Record):
    """What the small files of a model say of it. What they do not say is empty or None."""

    architectures: tuple[str, ...] = ()
    """The classes of the transformers library, such as `Qwen2ForCausalLM`."""
    model_type: str | None = None
    n_labels: int | None = None
    """Classes that a classifier tells apart; a reranker has one."""
    modules: tuple[str, ...] = ()
    """The modules of sentence-transformers; none: it is not made with that."""
    pooling: str | None = None
    has_chat_template: bool = False
    n_ctx_train: int | None = None
    """How many tokens the model takes at most."""


class _Text(Record):
    max_position_embeddings: int | None = None


class _Config(Record):
    architectures: tuple[str, ...] | None = None
    model_type: str | None = None
    max_position_embeddings: int | None = None
    text_config: _Text | None = None
    num_labels: int | None = None
    id2label: dict[str, Any] | None = None


class _Sentences(Record):
    max_seq_length: int | None = None


class _Tokenizer(Record):
    model_max_length: float | None = None
    chat_template: Any = None


class _Module(Record):
    type: str = ""


def check_safetensors(folder: Path) -> None:
    """ValueError with a sentence unless the folder looks like a model with safetensors."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ValueError("The folder has no config.json; it must be a model's folder as the hub has it.")
    if not weights(folder):
        raise ValueError("The folder has no .safetensors files; weights of other kinds can hold programs.")


def weights(folder: Path) -> list[Path]:
    """The files with the weights; some models keep them in a folder for each of their modules."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def torch_bytes(weights_bytes: int) -> int:
    """About what a model takes whose files with weights are this large."""
    return weights_bytes * _TORCH_PERCENT // 100 + _TORCH_BYTES


def trained_context(folder: Path) -> int | None:
    """How many tokens the model takes at most, where its files say."""
    return card_of(folder).n_ctx_train


def card_of(folder: Path) -> Card:
    """The card of a model on disk."""
    texts = {}
    for name in CARD_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size <= CARD_FILE_BYTES:
            texts[name] = path.read_bytes()
    return read_card(texts)


def read_card(texts: Mapping[str, bytes]) -> Card:
    """The card that these files make, by their names; what cannot be read counts as missing."""
    config = _read(texts, "config.json", _Config)
    tokenizer = _read(texts, "tokenizer_config.json", _Tokenizer)
    return Card(
        architectures=config.architectures or (),
        model_type=config.model_type,
        n_labels=len(config.id2label) if config.id2label else config.num_labels,
        modules=_modules(texts.get("modules.json")),
        pooling=_pooling(texts.get("1_Pooling/config.json")),
        has_chat_template=bool(tokenizer.chat_template)
        or bool({"chat_template.jinja", "chat_template.json"} & texts.keys()),
        n_ctx_train=_trained(config, _read(texts, "sentence_bert_config.json", _Sentences), tokenizer),
    )


def _trained(config: _Config, sentences: _Sentences, tokenizer: _Tokenizer) -> int | None:
    inner = config.text_config.max_position_embeddings if config.text_config else None
    given = (
        config.max_position_embeddings or inner,
        sentences.max_seq_length,
        tokenizer.model_max_length,
    )
    # A tokenizer that knows no limit says 10**30.
    known = [int(tokens) for tokens in given if tokens and 1 <= tokens <= _MOST_TOKENS]
    return min(known) if known else None


def _modules(text: bytes | None) -> tuple[str, ...]:
    try:
        modules = msgspec.json.decode(text or b"[]", type=list[_Module])
    except (msgspec.DecodeError, RecursionError):
        return ()
    return tuple(module.type.rpartition(".")[2] for module in modules)


def _pooling(text: bytes | None) -> str | None:
    try:
        config = msgspec.json.decode(text or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return next((word for key, word in _POOLINGS.items() if config.get(key) is True), None)


def _read(texts: Mapping[str, bytes], name: str, kind: type[R]) -> R:
    """What a file says; nothing where it is missing or says it in another way."""
    try:
        return msgspec.json.decode(texts.get(name, b"{}"), type=kind)
    except (msgspec.DecodeError, RecursionError):
        return kind()
