"""LLM-Manager's config.json and Local LLM Deploy's models.json: models by keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard.cli.importing.llama_server import is_llama_server, read_command, words_of
from modelyard.cli.importing.result import CannotImport, Fields, ImportResult, Note, StorePaths
from schemas.models import Mode

_MANAGER_MODES = {
    "chat": Mode.CHAT,
    "base": Mode.COMPLETION,
    "embedding": Mode.EMBEDDING,
    "reranker": Mode.RERANK,
}
_PROFILE_FIELDS = ("n_ctx", "n_parallel", "args", "env")
"""Fields that may differ between profiles; all others must be equal."""
_DEPLOY_MODES = {
    "chat": Mode.CHAT,
    "embedding": Mode.EMBEDDING,
    "rerank": Mode.RERANK,
    "asr": Mode.TRANSCRIPTION,
}
_SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "repeat_penalty": "repeat_penalty",
    "n_predict": "max_tokens",
}
"""Sampling defaults of its server, and their names in a request."""
_PARAMS = {*_SAMPLING, "ctx_size", "extra_args", "max_concurrent", "dimensions", "default_task"}


def read_llm_manager(document: Mapping[str, Any], paths: StorePaths) -> ImportResult:
    """The models beside `program`; profiles, which start scripts, keep their order as their priority."""
    result = ImportResult()
    program = document["program"]
    minutes = float(program.get("alive_time") or 0)
    for key, given in document.items():
        if key != "program":
            with result.model(str(key)) as note:
                result.add(_manager_fields(given, minutes, paths, note))
    result.notes.append("ports, plugins and the settings of `program` but alive_time are not imported")
    return result


def _manager_fields(given: Any, minutes: float, paths: StorePaths, note: Note) -> Fields:
    if not isinstance(given, dict) or not given.get("aliases"):
        raise CannotImport("it has no aliases, so it has no name for requests")
    mode = _MANAGER_MODES.get(str(given.get("mode", "")).lower())
    if mode is None:
        raise CannotImport(f"its mode {given.get('mode')!r} is not one of {', '.join(_MANAGER_MODES)}")
    schemes = {
        name: value
        for name, value in given.items()
        if isinstance(value, dict) and "required_devices" in value
    }
    if not schemes:
        raise CannotImport("it has no profile with required_devices")
    started = {name: _started(name, scheme, paths, note) for name, scheme in schemes.items()}
    return {
        # Requests there use the first alias, never the key.
        "name": given["aliases"][0],
        "aliases": given["aliases"] if len(given["aliases"]) > 1 else [],
        "mode": mode.value,
        **_shared(started),
        "profiles": [_profile(name, schemes[name], fields) for name, fields in started.items()],
        "autostart": bool(given.get("auto_start")),
        **({"ttl_s": minutes * 60} if minutes > 0 else {}),
    }


def _shared(started: Mapping[str, Fields]) -> Fields:
    left_out = (*_PROFILE_FIELDS, "aliases", "mode")
    shared = [{k: v for k, v in fields.items() if k not in left_out} for fields in started.values()]
    if any(fields != shared[0] for fields in shared):
        raise CannotImport("its profiles start different model files; make a model of each")
    return shared[0]


def _profile(name: str, scheme: Mapping[str, Any], fields: Fields) -> Fields:
    memory = scheme.get("memory_mb") or {}
    return {
        "name": name,
        "devices": [
            {
                "device": "cpu" if device.lower() == "cpu" else device,
                **({"memory_mib": int(memory[device])} if device in memory else {}),
            }
            for device in scheme["required_devices"]
        ],
        **{field: fields[field] for field in _PROFILE_FIELDS if field in fields},
    }


def _started(name: str, scheme: Mapping[str, Any], paths: StorePaths, note: Note) -> Fields:
    """The fields of the command in a profile's start script, or of a command in place of the script."""
    start = str(scheme.get("bat_path") or "")
    script = paths.base / start.replace("\\", "/")
    exists = script.is_file()
    text, base = (_text(script), script.parent) if exists else (start, paths.base)
    for line in _commands(text):
        words = words_of(line)
        program = next((index for index, word in enumerate(words) if is_llama_server(word)), None)
        if program is not None:
            return read_command(words[program:], StorePaths(base, paths.root), note)
    where = "has no line with llama-server" if exists else "does not exist"
    raise CannotImport(f"the start script {start!r} of its profile {name} {where}")


def _text(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotImport(f"{script} cannot be read ({error.strerror})") from error


def _commands(text: str) -> list[str]:
    joined = text.replace("^\n", " ").replace("\\\n", " ").replace("^\r\n", " ")
    return [line for line in joined.splitlines() if "llama-server" in line]


def read_llm_deploy(document: Mapping[str, Any], paths: StorePaths) -> ImportResult:
    """Models by short names; keys that begin with _ are comments."""
    result = ImportResult()
    for name, given in document.items():
        if not name.startswith("_"):
            with result.model(name) as note:
                result.add(_deploy_fields(name, given, paths, note))
    return result


def _deploy_fields(name: str, given: Any, paths: StorePaths, note: Note) -> Fields:
    if not isinstance(given, dict) or not given.get("repo_id"):
        raise CannotImport("it has no repo_id")
    kind = given.get("type") or "chat"
    if kind not in _DEPLOY_MODES:
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
        "mode": _DEPLOY_MODES[kind].value,
        "aliases": [alias] if alias and alias != name else [],
        **({"n_parallel": params["max_concurrent"]} if "max_concurrent" in params else {}),
    }


def _gguf(
    given: Mapping[str, Any], params: Mapping[str, Any], folder: str, paths: StorePaths, note: Note
) -> Fields:
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
    given: Mapping[str, Any], params: Mapping[str, Any], folder: str, paths: StorePaths, note: Note
) -> Fields:
    """A model of a whole repository; only embeddings have an engine."""
    if given.get("type") != "embedding":
        raise CannotImport(
            f"a model of type {given.get('type')!r} needs an engine that the file does not name"
        )
    embedding = {"task": params.get("default_task"), "dimensions": params.get("dimensions")}
    options = {field: value for field, value in embedding.items() if value is not None}
    return {"path": folder, "engine": "sentence-transformers", "embedding": options}
