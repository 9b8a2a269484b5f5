"""llama-swap's config.yaml."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.specs.importing.found import Fields, Found, NotTaken
from modelyard.specs.importing.llama_server import read_command, words_of
from modelyard.specs.importing.place import Place

_MACRO = re.compile(r"\$\{([^}]+)\}")
_DEPTH = 10
"""Macros may use others; more often than this only a circle does."""
_READ = {"cmd", "aliases", "env", "ttl", "filters", "macros"}
_SILENT = {"name", "description", "metadata", "proxy", "checkEndpoint"}
"""Words for people, and where its own engine answers, which the yard finds out itself."""


class _Model(msgspec.Struct):
    cmd: str = ""
    aliases: list[str] = []
    env: list[str] = []
    ttl: float = -1
    filters: dict[str, Any] = {}
    macros: dict[str, Any] = {}


def read(document: Mapping[str, Any], place: Place) -> Found:
    """Every model; groups and what else has no counterpart becomes a note."""
    found = Found()
    preloaded = _preloaded(document)
    for name, given in document["models"].items():
        with found.model(str(name)) as note:
            fields = _fields(str(name), given, document, place, note)
            found.add(fields | ({"autostart": True} if name in preloaded else {}))
    for group in document.get("groups") or {}:
        found.notes.append(
            f"the group {group} is not taken over: the yard plans memory by itself; see priority and pinned"
        )
    for other in sorted(document.keys() & {"apiKeys", "peers", "matrix"}):
        found.notes.append(f"{other} is not taken over")
    return found


def _preloaded(document: Mapping[str, Any]) -> list[str]:
    start = (document.get("hooks") or {}).get("on_startup") or {}
    return list(start.get("preload") or [])


def _fields(
    name: str, given: object, document: Mapping[str, Any], place: Place, note: Callable[[str], None]
) -> Fields:
    model = _converted(given)
    macros = {**(document.get("macros") or {}), **model.macros, "PORT": 0, "PID": 0, "MODEL_ID": name}
    fields = read_command(words_of(expanded(model.cmd, macros)), place, note)
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
    raise NotTaken("its macros go in a circle")
