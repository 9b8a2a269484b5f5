"""What a folder of safetensors says of itself, read without loading it."""

from pathlib import Path
from typing import TypeVar

import msgspec

from schemas.record import Record

R = TypeVar("R", bound=Record)


class _Text(Record):
    max_position_embeddings: int | None = None


class _Config(Record):
    max_position_embeddings: int | None = None
    text_config: _Text = _Text()


class _Sentences(Record):
    max_seq_length: int | None = None


class _Tokenizer(Record):
    model_max_length: float | None = None


def check_safetensors(folder: Path) -> None:
    """ValueError with a sentence unless the folder looks like a model with safetensors."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ValueError("The folder has no config.json; it must be a model's folder as the hub has it.")
    if not weights(folder):
        raise ValueError("The folder has no .safetensors files; weights of other kinds can hold programs.")


def weights(folder: Path) -> list[Path]:
    """The files with the weights; some models keep them in a folder for each of their modules."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def trained_context(folder: Path) -> int | None:
    """How many tokens the model takes at most, where its files say."""
    config = _read(folder / "config.json", _Config)
    given = (
        config.max_position_embeddings or config.text_config.max_position_embeddings,
        _read(folder / "sentence_bert_config.json", _Sentences).max_seq_length,
        _read(folder / "tokenizer_config.json", _Tokenizer).model_max_length,
    )
    # A tokenizer that knows no limit says 10**30.
    known = [int(tokens) for tokens in given if tokens]
    return min(known) if known else None


def _read(path: Path, kind: type[R]) -> R:
    """What the file says; nothing where it is missing or says it in another way."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return kind()
