"""Local LLM Deploy's models.json: models by short names."""

from collections.abc import Mapping
from typing import Any

from modelyard.cli.importing.llama_server import read_command
from modelyard.cli.importing.paths import StorePaths
from modelyard.cli.importing.result import CannotImport, Fields, ImportResult, Note
from schemas.models import Mode

_MODES = {"chat": Mode.CHAT, "embedding": Mode.EMBEDDING, "rerank": Mode.RERANK, "asr": Mode.TRANSCRIPTION}
_SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "repeat_penalty": "repeat_penalty",
    "n_predict": "max_tokens",
}
"""Sampling defaults of its server, and their names in a request."""
_PARAMS = {*_SAMPLING, "ctx_size", "extra_args", "max_concurrent", "dimensions", "default_task"}


def read(document: Mapping[str, Any], paths: StorePaths) -> ImportResult:
    """Every model; keys that begin with _ are comments."""
    result = ImportResult()
    for name, given in document.items():
        if not name.startswith("_"):
            with result.model(name) as note:
                result.add(_fields(name, given, paths, note))
    return result


def _fields(name: str, given: Any, paths: StorePaths, note: Note) -> Fields:
    if not isinstance(given, dict) or not given.get("repo_id"):
        raise CannotImport("it has no repo_id")
    kind = given.get("type") or "chat"
    if kind not in _MODES:
        raise CannotImport(f"its type {kind!r} is served by another program than those of the yard")
    params = given.get("params") or {}
    if unused := sorted(params.keys() - _PARAMS):
        note(f"params {', '.join(unused)} not imported")
    folder = str(given.get("repo_name") or given["repo_id"]).replace("/", "-")
    fields = (_gguf if kind == "chat" else _repository)(given, params, folder, paths, note)
    alias = given.get("alias")
    return {
        **fields,
        "name": name,
        "mode": _MODES[kind].value,
        "aliases": [alias] if alias and alias != name else [],
        **({"n_parallel": params["max_concurrent"]} if "max_concurrent" in params else {}),
    }


def _gguf(
    given: Mapping[str, Any],
    params: Mapping[str, Any],
    folder: str,
    paths: StorePaths,
    note: Note,
) -> Fields:
    """A chat model: the first shard that matches its pattern."""
    quant = given.get("default_quant")
    inside = paths.root / folder / quant if quant else paths.root / folder
    patterns = _patterns(given, quant)
    files = sorted({file for pattern in patterns for file in inside.rglob(pattern) if file.suffix == ".gguf"})
    shard = next((file for file in files if "mmproj" not in file.name), None)
    if shard is None:
        repo = f"{given['repo_id']}:{quant}" if quant else given["repo_id"]
        raise CannotImport(
            f"{inside} has no GGUF file of it; give --root, or download it with `yard pull {repo}`"
        )
    words = ["llama-server", "--model", str(shard), *map(str, params.get("extra_args") or ())]
    fields = read_command(words, paths, note)
    defaults = {name: params[param] for param, name in _SAMPLING.items() if param in params}
    if mmproj := given.get("mmproj"):
        fields["mmproj"] = f"{folder}/{mmproj}"
    if template := given.get("chat_template_file"):
        fields["chat_template"] = paths.file(template, note)
    return {
        **fields,
        **({"n_ctx": params["ctx_size"]} if "ctx_size" in params else {}),
        **({"parameters": {"defaults": defaults}} if defaults else {}),
    }


def _patterns(given: Mapping[str, Any], quant: str | None) -> list[str]:
    known = (given.get("quants") or {}).get(quant) or {}
    return known.get("patterns") or [known.get("pattern") or "*.gguf"]


def _repository(
    given: Mapping[str, Any],
    params: Mapping[str, Any],
    folder: str,
    paths: StorePaths,
    note: Note,
) -> Fields:
    """A model of a whole repository; only embeddings have an engine."""
    if given.get("type") != "embedding":
        raise CannotImport(
            f"a model of type {given.get('type')!r} needs an engine that the file does not name"
        )
    embedding = {"task": params.get("default_task"), "dimensions": params.get("dimensions")}
    options = {field: value for field, value in embedding.items() if value is not None}
    return {"path": folder, "engine": "sentence-transformers", "embedding": options}
