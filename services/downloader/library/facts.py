"""Facts of a model from its headers and configuration; reads no weights and guesses nothing."""

import errno
from collections import Counter
from pathlib import Path

from modelyard.files import safetensors
from modelyard.files.gguf.parse import GgufContents
from modelyard.files.gguf.reader import join_shards, read_contents
from schemas.library import EntryFacts, EntryFormat
from services.downloader.library import store_fs
from services.downloader.library.grouping import MARKS, FileGroup
from services.downloader.library.walk import ScannedFile

_MAX_CONFIG_BYTES = 16 * 1024 * 1024
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
        header = join_shards([_contents(root, file.path) for file in group.weights])
    except ValueError as error:
        raise InvalidModelFiles(str(error)) from error
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


def _contents(root: Path, path: str) -> GgufContents:
    # By its handle: opened by name again, the path could be a link by now.
    with store_fs.open_file(root, path) as file:
        return read_contents(Path(f"/dev/fd/{file.fileno()}"))


def _safetensors_facts(root: Path, group: FileGroup) -> EntryFacts:
    names = {file.path.removeprefix(f"{group.folder}/") for file in group.files}
    if not names & MARKS:
        raise InvalidModelFiles(
            "The folder has no config.json; it must be a model's folder as the hub has it."
        )
    texts = {
        name: store_fs.read_file(root, f"{group.folder}/{name}", _MAX_CONFIG_BYTES)
        for name in names & {"config.json", "tokenizer_config.json"}
    }
    config = safetensors.read_record(texts.get("config.json"), safetensors.ModelConfig)
    tokenizer = safetensors.read_record(texts.get("tokenizer_config.json"), safetensors.TokenizerConfig)
    elements = sum((_elements(root, file) for file in group.weights), Counter[str]())
    packed = config.quantization_config is not None and bool(_PACKED & elements.keys())
    return EntryFacts(
        architecture=config.architectures[0] if config.architectures else config.model_type,
        kind="adapter" if "adapter_config.json" in names else "model",
        quant=config.quant or max(elements, key=elements.__getitem__, default=None),
        n_params=None if packed else elements.total() or None,
        n_ctx_train=config.max_position_embeddings or config.text.max_position_embeddings,
        n_layer=config.num_hidden_layers or config.text.num_hidden_layers,
        n_embd=config.hidden_size or config.text.hidden_size,
        n_expert=config.num_local_experts or config.num_experts or config.n_routed_experts,
        has_chat_template=tokenizer.chat_template is not None or bool(names & safetensors.CHAT_TEMPLATES),
        n_shards=len(group.weights),
    )


def _elements(root: Path, file: ScannedFile) -> Counter[str]:
    with store_fs.open_file(root, file.path) as opened:
        try:
            return safetensors.count_elements(opened, file.size_bytes)
        except ValueError as error:
            raise InvalidModelFiles(f"{file.name} {error}") from error


def explain(error: OSError) -> str:
    """Why files cannot be read, a sentence."""
    if isinstance(error, store_fs.UnsafePath):
        return "It leads over a symbolic link, which is not followed."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "It may not be read by the user that Modelyard runs as; change its owner or its mode."
    return f"It cannot be read: {error.strerror}."
