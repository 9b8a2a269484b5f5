"""LLM-Manager's config.json: beside `program`, every key is a model with profiles that start scripts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelyard.specs.importing.found import Fields, Found, NotTaken
from modelyard.specs.importing.llama_server import is_llama_server, read_command, words_of
from modelyard.specs.importing.place import Place
from schemas.models import Mode

_MODES = {
    "chat": Mode.CHAT,
    "base": Mode.COMPLETION,
    "embedding": Mode.EMBEDDING,
    "reranker": Mode.RERANK,
}
_OWN = ("n_ctx", "n_parallel", "args", "env")
"""What a profile may say for itself; the rest must be the same in all of them."""


def read(document: Mapping[str, Any], place: Place) -> Found:
    """Every model; its profiles keep their order, which is their priority there as here."""
    found = Found()
    program = document["program"]
    minutes = float(program.get("alive_time") or 0)
    for key, given in document.items():
        if key != "program":
            with found.model(str(key)) as note:
                found.add(_fields(given, minutes, place, note))
    found.notes.append("ports, plugins and the settings of `program` but alive_time are not taken over")
    return found


def _fields(given: Any, minutes: float, place: Place, note: Callable[[str], None]) -> Fields:
    if not isinstance(given, dict) or not given.get("aliases"):
        raise NotTaken("it has no aliases, so nobody could ask for it")
    mode = _MODES.get(str(given.get("mode", "")).lower())
    if mode is None:
        raise NotTaken(f"its mode {given.get('mode')!r} is none of {', '.join(_MODES)}")
    schemes = {
        name: each for name, each in given.items() if isinstance(each, dict) and "required_devices" in each
    }
    if not schemes:
        raise NotTaken("it has no profile with required_devices")
    started = {name: _started(name, each, place, note) for name, each in schemes.items()}
    return {
        # Its key is not addressable there, and the first alias is its name.
        "name": given["aliases"][0],
        "aliases": given["aliases"] if len(given["aliases"]) > 1 else [],
        "mode": mode.value,
        **_shared(started),
        "profiles": [_profile(name, schemes[name], fields) for name, fields in started.items()],
        "autostart": bool(given.get("auto_start")),
        **({"ttl_s": minutes * 60} if minutes > 0 else {}),
    }


def _shared(started: Mapping[str, Fields]) -> Fields:
    """What every profile says alike; NotTaken if two start different files."""
    left_out = (*_OWN, "aliases", "mode")
    each = [{k: v for k, v in fields.items() if k not in left_out} for fields in started.values()]
    if any(one != each[0] for one in each):
        raise NotTaken("its profiles start different model files; make a model of each")
    return each[0]


def _profile(name: str, scheme: Mapping[str, Any], fields: Fields) -> Fields:
    memory = scheme.get("memory_mb") or {}
    devices = [
        {"device": device, **({"memory_mib": int(memory[device])} if device in memory else {})}
        for device in scheme["required_devices"]
    ]
    return {
        "name": name,
        "devices": [_cpu(each) for each in devices],
        **{field: fields[field] for field in _OWN if field in fields},
    }


def _cpu(need: Fields) -> Fields:
    return {**need, "device": "cpu"} if need["device"].lower() == "cpu" else need


def _started(name: str, scheme: Mapping[str, Any], place: Place, note: Callable[[str], None]) -> Fields:
    """What the start script of a profile starts, or the command that stands in its place."""
    start = str(scheme.get("bat_path") or "")
    script = place.base / start.replace("\\", "/")
    text = _text(script) if script.is_file() else start
    for line in _commands(text):
        words = words_of(line)
        program = next((index for index, word in enumerate(words) if is_llama_server(word)), None)
        if program is not None:
            return read_command(
                words[program:], Place(script.parent if script.is_file() else place.base, place.root), note
            )
    where = "has no line with llama-server" if script.is_file() else "is not there to be read"
    raise NotTaken(f"the start script {start!r} of its profile {name} {where}")


def _text(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NotTaken(f"{script} cannot be read ({error.strerror})") from error


def _commands(text: str) -> list[str]:
    """The lines of a script, continued ones joined."""
    joined = text.replace("^\n", " ").replace("\\\n", " ").replace("^\r\n", " ")
    return [line for line in joined.splitlines() if "llama-server" in line]
