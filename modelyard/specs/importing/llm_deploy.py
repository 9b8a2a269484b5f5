"""Local LLM Deploy's models.json: short names, and where the files of each lie."""

from collections.abc import Callable, Mapping
from typing import Any

from modelyard.specs.importing.found import Fields, Found, NotTaken
from modelyard.specs.importing.llama_server import read_command
from modelyard.specs.importing.place import Place
from schemas.models import Mode

_MODES = {"chat": Mode.CHAT, "embedding": Mode.EMBEDDING, "rerank": Mode.RERANK, "asr": Mode.TRANSCRIPTION}
_SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "repeat_penalty": "repeat_penalty",
    "n_predict": "max_tokens",
}
"""What it gives the server as a default, and what a request calls it."""
_PARAMS = {*_SAMPLING, "ctx_size", "extra_args", "max_concurrent", "dimensions", "default_task"}


def read(document: Mapping[str, Any], place: Place) -> Found:
    """Every model; keys that begin with _ are notes there."""
    found = Found()
    for name, given in document.items():
        if not name.startswith("_"):
            with found.model(name) as note:
                found.add(_fields(name, given, place, note))
    return found


def _fields(name: str, given: Any, place: Place, note: Callable[[str], None]) -> Fields:
    if not isinstance(given, dict) or not given.get("repo_id"):
        raise NotTaken("it has no repo_id")
    kind = given.get("type") or "chat"
    if kind not in _MODES:
        raise NotTaken(f"its type {kind!r} is served by another program than ours")
    params = given.get("params") or {}
    if left := sorted(params.keys() - _PARAMS):
        note(f"params {', '.join(left)} not taken over")
    folder = str(given.get("repo_name") or given["repo_id"]).replace("/", "-")
    fields = (_gguf if kind == "chat" else _whole)(given, params, folder, place, note)
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
    place: Place,
    note: Callable[[str], None],
) -> Fields:
    """A chat model: the first shard that its pattern finds."""
    quant = given.get("default_quant")
    inside = place.root / folder / quant if quant else place.root / folder
    patterns = _patterns(given, quant)
    files = sorted({file for pattern in patterns for file in inside.rglob(pattern) if file.suffix == ".gguf"})
    shard = next((file for file in files if "mmproj" not in file.name), None)
    if shard is None:
        repo = f"{given['repo_id']}:{quant}" if quant else given["repo_id"]
        raise NotTaken(f"{inside} has no GGUF file of it; say --root, or fetch it with `yard pull {repo}`")
    words = ["llama-server", "--model", str(shard), *map(str, params.get("extra_args") or ())]
    fields = read_command(words, place, note)
    defaults = {ours: params[theirs] for theirs, ours in _SAMPLING.items() if theirs in params}
    if mmproj := given.get("mmproj"):
        fields["mmproj"] = f"{folder}/{mmproj}"
    if template := given.get("chat_template_file"):
        fields["chat_template"] = place.file(template, note)
    return {
        **fields,
        **({"n_ctx": params["ctx_size"]} if "ctx_size" in params else {}),
        **({"parameters": {"defaults": defaults}} if defaults else {}),
    }


def _patterns(given: Mapping[str, Any], quant: str | None) -> list[str]:
    known = (given.get("quants") or {}).get(quant) or {}
    return known.get("patterns") or [known.get("pattern") or "*.gguf"]


def _whole(
    given: Mapping[str, Any],
    params: Mapping[str, Any],
    folder: str,
    place: Place,
    note: Callable[[str], None],
) -> Fields:
    """Another model: a whole repository, run by sentence-transformers where it makes embeddings."""
    if given.get("type") != "embedding":
        raise NotTaken(f"a model of type {given.get('type')!r} needs an engine that is not said there")
    embedding = {"task": params.get("default_task"), "dimensions": params.get("dimensions")}
    said = {field: value for field, value in embedding.items() if value is not None}
    return {"path": folder, "engine": "sentence-transformers", "embedding": said}
