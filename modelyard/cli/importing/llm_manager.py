"""LLM-Manager's config.json: beside `program`, every key is a model with profiles that start scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard.cli.importing.llama_server import is_llama_server, read_command, words_of
from modelyard.cli.importing.paths import StorePaths
from modelyard.cli.importing.result import CannotImport, Fields, ImportResult, Note
from schemas.models import Mode

_MODES = {
    "chat": Mode.CHAT,
    "base": Mode.COMPLETION,
    "embedding": Mode.EMBEDDING,
    "reranker": Mode.RERANK,
}
_PROFILE_FIELDS = ("n_ctx", "n_parallel", "args", "env")
"""Fields that may differ between profiles; all others must be equal."""


def read(document: Mapping[str, Any], paths: StorePaths) -> ImportResult:
    """Every model; its profiles keep their order, which is their priority."""
    result = ImportResult()
    program = document["program"]
    minutes = float(program.get("alive_time") or 0)
    for key, given in document.items():
        if key != "program":
            with result.model(str(key)) as note:
                result.add(_fields(given, minutes, paths, note))
    result.notes.append("ports, plugins and the settings of `program` but alive_time are not imported")
    return result


def _fields(given: Any, minutes: float, paths: StorePaths, note: Note) -> Fields:
    if not isinstance(given, dict) or not given.get("aliases"):
        raise CannotImport("it has no aliases, so it has no name for requests")
    mode = _MODES.get(str(given.get("mode", "")).lower())
    if mode is None:
        raise CannotImport(f"its mode {given.get('mode')!r} is not one of {', '.join(_MODES)}")
    schemes = {
        name: each for name, each in given.items() if isinstance(each, dict) and "required_devices" in each
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
    """The fields that all profiles share; CannotImport if two start different files."""
    left_out = (*_PROFILE_FIELDS, "aliases", "mode")
    shared = [{k: v for k, v in fields.items() if k not in left_out} for fields in started.values()]
    if any(fields != shared[0] for fields in shared):
        raise CannotImport("its profiles start different model files; make a model of each")
    return shared[0]


def _profile(name: str, scheme: Mapping[str, Any], fields: Fields) -> Fields:
    memory = scheme.get("memory_mb") or {}
    devices = [
        {"device": device, **({"memory_mib": int(memory[device])} if device in memory else {})}
        for device in scheme["required_devices"]
    ]
    return {
        "name": name,
        "devices": [_with_cpu_id(need) for need in devices],
        **{field: fields[field] for field in _PROFILE_FIELDS if field in fields},
    }


def _with_cpu_id(need: Fields) -> Fields:
    return {**need, "device": "cpu"} if need["device"].lower() == "cpu" else need


def _started(name: str, scheme: Mapping[str, Any], paths: StorePaths, note: Note) -> Fields:
    """The fields of the command in a profile's start script, or of a command in place of the script."""
    start = str(scheme.get("bat_path") or "")
    script = paths.base / start.replace("\\", "/")
    text = _text(script) if script.is_file() else start
    for line in _commands(text):
        words = words_of(line)
        program = next((index for index, word in enumerate(words) if is_llama_server(word)), None)
        if program is not None:
            return read_command(
                words[program:],
                StorePaths(script.parent if script.is_file() else paths.base, paths.root),
                note,
            )
    where = "has no line with llama-server" if script.is_file() else "does not exist"
    raise CannotImport(f"the start script {start!r} of its profile {name} {where}")


def _text(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotImport(f"{script} cannot be read ({error.strerror})") from error


def _commands(text: str) -> list[str]:
    """The lines of a script, continued ones joined."""
    joined = text.replace("^\n", " ").replace("\\\n", " ").replace("^\r\n", " ")
    return [line for line in joined.splitlines() if "llama-server" in line]
