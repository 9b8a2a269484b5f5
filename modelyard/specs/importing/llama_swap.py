"""llama-swap's config.yaml."""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.specs.importing.found import Fields, Found, NotTaken
from modelyard.specs.importing.llama_server import (
    is_llama_server,
    program_of,
    read_command,
    split_environment,
    words_of,
)
from modelyard.specs.importing.place import Place

_MACRO = re.compile(r"\$\{([^}]+)\}")
_DEPTH = 10
"""Macros may use others; more often than this only a circle does."""
_MAX_CHARS = 64 * 1024
"""Of a command with its macros put in."""
_READ = {"cmd", "aliases", "env", "ttl", "filters", "macros", "checkEndpoint"}
_SILENT = {"name", "description", "metadata", "proxy"}
"""Words for people, and where its own engine answers, which the yard finds out itself."""
_PORT = "0port0"
"""In the place of the port until it is known whose command it is."""
_HEALTH = "/health"
_BRACES = re.compile(r"\{(\w+)\}")


class _Model(msgspec.Struct):
    cmd: str = ""
    aliases: list[str] = []
    env: list[str] = []
    ttl: float = -1
    filters: dict[str, Any] = {}
    macros: dict[str, Any] = {}
    check_endpoint: str = msgspec.field(default=_HEALTH, name="checkEndpoint")


def read(document: Mapping[str, Any], place: Place) -> Found:
    """Every model; groups and what else has no counterpart becomes a note."""
    found = Found()
    preloaded = _preloaded(document)
    for name, given in document["models"].items():
        with found.model(str(name)) as note:
            fields = _fields(str(name), given, document, place, note)
            found.add(fields | ({"autostart": True} if name in preloaded else {}))
    for name, group in (document.get("groups") or {}).items():
        found.notes.append(f"the group {name} is not taken over: {_instead(name, group)}")
    for other in sorted(document.keys() & {"apiKeys", "peers", "matrix"}):
        found.notes.append(f"{other} is not taken over")
    return found


def _instead(name: object, group: Mapping[str, Any]) -> str:
    """What does the same here: of a group that swaps, one model runs at a time."""
    members = [str(member) for member in group.get("members") or []]
    if group.get("swap", True) and len(members) > 1:
        return f"`yard group {shlex.quote(str(name))} --apart {shlex.join(members)}` does the same"
    return "the yard plans memory by itself; see priority and pinned"


def _preloaded(document: Mapping[str, Any]) -> list[str]:
    start = (document.get("hooks") or {}).get("on_startup") or {}
    return list(start.get("preload") or [])


def _fields(
    name: str, given: object, document: Mapping[str, Any], place: Place, note: Callable[[str], None]
) -> Fields:
    model = _converted(given)
    macros = {**(document.get("macros") or {}), **model.macros, "PORT": _PORT, "PID": 0, "MODEL_ID": name}
    fields = _command(words_of(expanded(model.cmd, macros)), model, place, note)
    aliases = [name, *model.aliases, *fields.pop("aliases", [])]
    env = dict(expanded(each, macros).partition("=")[::2] for each in model.env)
    ttl = model.ttl if model.ttl >= 0 else float(document.get("globalTTL") or 0)
    budget = document.get("healthCheckTimeout")
    assert isinstance(given, dict)
    if left := sorted(given.keys() - _READ - _SILENT):
        note(f"{', '.join(left)} not taken over")
    said: Fields = {
        # It lists models by their own name, whatever their aliases.
        "aliases": list(dict.fromkeys(aliases)) if len(set(aliases)) > 1 else None,
        "env": {**fields.pop("env", {}), **env},
        "ttl_s": ttl,
        "start_budget_s": budget,
        "parameters": _parameters(model.filters, note),
    }
    return {"name": name, **fields, **{field: value for field, value in said.items() if value}}


def _command(words: list[str], model: _Model, place: Place, note: Callable[[str], None]) -> Fields:
    """Of llama-server, what it is told; of any other program, the program as it is, told its port."""
    if is_llama_server(program_of(words)):
        return read_command([word.replace(_PORT, "0") for word in words], place, note)
    if not any(_PORT in word for word in words):
        raise NotTaken(f"it runs {program_of(words) or 'nothing'}, and tells it no ${{PORT}}")
    note("is run by the engine `command`; say what it is for with mode, and how much memory with a profile")
    env, program = split_environment(words)
    args = [_BRACES.sub(r"{{\1}}", word).replace(_PORT, "{port}") for word in program]
    # `none` is not to ask at all; we do, where most answer.
    path = model.check_endpoint if model.check_endpoint.startswith("/") else _HEALTH
    return {
        "path": "none",
        "engine": "command",
        "args": args,
        **({"health_path": path} if path != _HEALTH else {}),
        **({"env": env} if env else {}),
    }


def _converted(given: object) -> _Model:
    try:
        return msgspec.convert(given, _Model, strict=False)
    except msgspec.ValidationError as error:
        raise NotTaken(f"it is not as llama-swap wants it ({error})") from error


def _parameters(filters: Mapping[str, Any], note: Callable[[str], None]) -> Fields:
    dropped = filters.get("stripParams") or filters.get("strip_params") or ""
    names = [name.strip() for name in str(dropped).split(",") if name.strip()]
    if left := sorted(filters.keys() - {"stripParams", "strip_params", "setParams"}):
        note(f"filters {', '.join(left)} not taken over")
    policy = {"dropped": names, "forced": filters.get("setParams")}
    return {field: value for field, value in policy.items() if value}


def expanded(text: str, macros: Mapping[str, Any]) -> str:
    """`text` with its macros put in, and theirs; NotTaken for one that is not there."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("env.") and name[4:] in os.environ:
            return os.environ[name[4:]]
        if name not in macros:
            raise NotTaken(f"there is no macro ${{{name}}}")
        found = macros[name]
        return " ".join(map(str, found)) if isinstance(found, list) else str(found)

    for _ in range(_DEPTH):
        if not _MACRO.search(text):
            return text
        text = _MACRO.sub(value, text)
        if len(text) > _MAX_CHARS:
            raise NotTaken("its macros make it far too long")
    raise NotTaken("its macros go in a circle")
