"""Facts of a model from its headers and configuration; reads no weights and guesses nothing."""

import errno
from pathlib import Path
from typing import Any

import msgspec

from modelyard.files.gguf.header import Header, make_header
from modelyard.files.gguf.parse import GgufContents
from modelyard.files.gguf.reader import read_contents
from schemas.base import Record
from schemas.library import EntryFacts, EntryFormat
from services.downloader.library import store_fs
from services.downloader.library.grouping import FileGroup

_MAX_CONFIG_BYTES = 16 * 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024 * 1024
_PACKED = frozenset({"U8", "I8", "I32", "U32"})
"""Element types that may pack several weights into one element."""


class InvalidModelFiles(Exception):
    """The files are invalid; the message is a sentence."""


def read_facts(root: Path, group: FileGroup) -> EntryFacts:
    """The facts of one model; InvalidModelFiles, or OSError where files cannot be read."""
    if group.missing_shards:
        lacking = len(group.missing_shards)
        raise InvalidModelFiles(
            f"{lacking} of its {group.shards} files are missing; the first is {group.missing_shards[0]}."
        )
    if group.format is EntryFormat.GGUF:
        return _gguf_facts(root, group)
    if group.format is EntryFormat.SAFETENSORS:
        return _safetensors_facts(root, group)
    return EntryFacts()


def _gguf_facts(root: Path, group: FileGroup) -> EntryFacts:
    try:
        contents = [_contents(root, file.path) for file in group.weights]
        tensors = tuple(tensor for part in contents for tensor in part.tensors)
        header = make_header(contents[0]._replace(tensors=tensors), n_shards=len(contents))
    except ValueError as error:
        raise InvalidModelFiles(str(error)) from error
    return _header_facts(header)


def _contents(root: Path, path: str) -> GgufContents:
    # By its handle: opened by name again, the path could be a link by now.
    with store_fs.open_file(root, path) as file:
        return read_contents(Path(f"/dev/fd/{file.fileno()}"))


def _header_facts(header: Header) -> EntryFacts:
    return EntryFacts(
        architecture=header.architecture,
        kind="mmproj" if header.is_mmproj else header.kind,
        name=header.name,
        quant=header.quant,
        n_params=header.n_params or None,
        n_ctx_train=header.n_ctx_train or None,
        n_layer=header.n_layer or None,
        n_embd=header.n_embd or None,
        n_expert=header.n_expert or None,
        pooling=header.pooling,
        has_chat_template=header.has_chat_template,
        n_shards=header.n_shards,
    )


class _Text(Record):
    max_position_embeddings: int | None = None
    num_hidden_layers: int | None = None
    hidden_size: int | None = None


class _Quantization(Record):
    quant_method: str | None = None
    bits: int | None = None


class _Config(Record):
    architectures: tuple[str, ...] | None = None
    model_type: str | None = None
    torch_dtype: str | None = None
    dtype: str | None = None
    max_position_embeddings: int | None = None
    num_hidden_layers: int | None = None
    hidden_size: int | None = None
    num_local_experts: int | None = None
    num_experts: int | None = None
    n_routed_experts: int | None = None
    quantization_config: _Quantization | None = None
    text_config: _Text | None = None


class _Tokenizer(Record):
    chat_template: Any = None


def _safetensors_facts(root: Path, group: FileGroup) -> EntryFacts:
    names = {file.path.removeprefix(f"{group.folder}/") for file in group.files}
    if not names & {"config.json", "modules.json", "model_index.json", "adapter_config.json"}:
        raise InvalidModelFiles(
            "The folder has no config.json; it must be a model's folder as the hub has it."
        )
    config = _json(root, group, names, "config.json", _Config) or _Config()
    text, quantized = config.text_config or _Text(), config.quantization_config
    tokenizer = _json(root, group, names, "tokenizer_config.json", _Tokenizer)
    elements = _elements(root, group)
    packed = quantized is not None and bool(_PACKED & elements.keys())
    return EntryFacts(
        architecture=config.architectures[0] if config.architectures else config.model_type,
        kind="adapter" if "adapter_config.json" in names else "model",
        quant=_quant(quantized) or _main_type(elements),
        n_params=None if packed else sum(elements.values()) or None,
        n_ctx_train=config.max_position_embeddings or text.max_position_embeddings,
        n_layer=config.num_hidden_layers or text.num_hidden_layers,
        n_embd=config.hidden_size or text.hidden_size,
        n_expert=config.num_local_experts or config.num_experts or config.n_routed_experts,
        has_chat_template=_has_template(names, tokenizer),
        n_shards=len(group.weights),
    )


def _has_template(names: set[str], tokenizer: _Tokenizer | None) -> bool:
    templates = {"chat_template.jinja", "chat_template.json"}
    return bool(names & templates) or (tokenizer is not None and tokenizer.chat_template is not None)


def _quant(quantized: _Quantization | None) -> str | None:
    if quantized is None or quantized.quant_method is None:
        return None
    return quantized.quant_method + (f"-{quantized.bits}bit" if quantized.bits else "")


def _main_type(elements: dict[str, int]) -> str | None:
    return max(elements, key=elements.__getitem__, default=None)


def _json(root: Path, group: FileGroup, names: set[str], name: str, kind: type[Any]) -> Any:
    if name not in names:
        return None
    try:
        return msgspec.json.decode(
            store_fs.read_file(root, f"{group.folder}/{name}", _MAX_CONFIG_BYTES), type=kind
        )
    except ValueError:
        return None


class _Tensor(Record):
    dtype: str
    shape: tuple[int, ...]


def _elements(root: Path, group: FileGroup) -> dict[str, int]:
    elements: dict[str, int] = {}
    for file in group.weights:
        for tensor in _tensors(root, file.path, file.size_bytes):
            count = 1
            for length in tensor.shape:
                count *= length
            elements[tensor.dtype] = elements.get(tensor.dtype, 0) + count
    return elements


def _tensors(root: Path, path: str, size_bytes: int) -> list[_Tensor]:
    # A safetensors header: its length in 8 bytes, then JSON by tensor name.
    with store_fs.open_file(root, path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size_bytes - 8, _MAX_HEADER_BYTES):
            raise InvalidModelFiles(
                f"{path.rpartition('/')[2]} is not a safetensors file, or it is truncated."
            )
        raw = file.read(length)
    try:
        header = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        return [
            msgspec.json.decode(value, type=_Tensor)
            for name, value in header.items()
            if name != "__metadata__"
        ]
    except ValueError:
        raise InvalidModelFiles(f"The header of {path.rpartition('/')[2]} is damaged.") from None


def explain(error: OSError) -> str:
    """Why files cannot be read, a sentence."""
    if isinstance(error, store_fs.UnsafePath):
        return "It leads over a symbolic link, which is not followed."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "It may not be read by the user that Modelyard runs as; change its owner or its mode."
    return f"It cannot be read: {error.strerror}."
