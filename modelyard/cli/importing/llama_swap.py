"""llama-swap's config.yaml."""

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.cli.importing import llama_server
from modelyard.cli.importing.result import CannotImport, Fields, ImportResult, Note, StorePaths

_MACRO = re.compile(r"\$\{([^}]+)\}")
_DEPTH = 10
"""How deep macros may use others; only a circle is deeper."""
_MAX_CHARS = 64 * 1024
"""Of a command with its macros expanded."""
_IMPORTED = {"cmd", "aliases", "env", "ttl", "filters", "macros", "checkEndpoint"}
_IGNORED = {"name", "description", "metadata", "proxy"}
"""Texts for people, and the address of its engine, which the yard chooses itself."""
_PORT = "0port0"
"""Stands for the port until the program is known."""
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


def read(document: Mapping[str, Any], paths: StorePaths) -> ImportResult:
    """Every model; groups and other fields without a counterpart become notes."""
    result = ImportResult()
    preloaded = _preloaded(document)
    for name, given in document["models"].items():
        with result.model(str(name)) as note:
            fields = _fields(str(name), given, document, paths, note)
            result.add(fields | ({"autostart": True} if name in preloaded else {}))
    for name, group in (document.get("groups") or {}).items():
        result.notes.append(f"the group {name} is not imported: {_group_hint(name, group)}")
    for other in sorted(document.keys() & {"apiKeys", "peers", "matrix"}):
        result.notes.append(f"{other} is not imported")
    return result


def _group_hint(name: object, group: Mapping[str, Any]) -> str:
    # Of a group that swaps, one model runs at a time.
    members = [str(member) for member in group.get("members") or []]
    if group.get("swap", True) and len(members) > 1:
        return f"`yard group {shlex.quote(str(name))} --apart {shlex.join(members)}` does the same"
    return "the yard plans memory on its own; see priority and pinned"


def _preloaded(document: Mapping[str, Any]) -> list[str]:
    start = (document.get("hooks") or {}).get("on_startup") or {}
    return list(start.get("preload") or [])


def _fields(name: str, given: object, document: Mapping[str, Any], paths: StorePaths, note: Note) -> Fields:
    model = _convert(given)
    macros = {**(document.get("macros") or {}), **model.macros, "PORT": _PORT, "PID": 0, "MODEL_ID": name}
    fields = _command(llama_server.words_of(expanded(model.cmd, macros)), model, paths, note)
    aliases = [name, *model.aliases, *fields.pop("aliases", [])]
    env = dict(expanded(variable, macros).partition("=")[::2] for variable in model.env)
    ttl = model.ttl if model.ttl >= 0 else float(document.get("globalTTL") or 0)
    budget = document.get("healthCheckTimeout")
    assert isinstance(given, dict)
    if unused := sorted(given.keys() - _IMPORTED - _IGNORED):
        note(f"{', '.join(unused)} not imported")
    optional: Fields = {
        # llama-swap lists models by their own name, whatever their aliases.
        "aliases": list(dict.fromkeys(aliases)) if len(set(aliases)) > 1 else None,
        "env": {**fields.pop("env", {}), **env},
        "ttl_s": ttl,
        "start_budget_s": budget,
        "parameters": _parameters(model.filters, note),
    }
    return {"name": name, **fields, **{field: value for field, value in optional.items() if value}}


def _command(words: list[str], model: _Model, paths: StorePaths, note: Note) -> Fields:
    if llama_server.is_llama_server(llama_server.program_of(words)):
        return llama_server.read_command([word.replace(_PORT, "0") for word in words], paths, note)
    if not any(_PORT in word for word in words):
        raise CannotImport(
            f"it runs {llama_server.program_of(words) or 'nothing'}, and passes it no ${{PORT}}"
        )
    note("is run by the engine `command`; set its mode, and its memory with a profile")
    env, program = llama_server.split_environment(words)
    args = [_BRACES.sub(r"{{\1}}", word).replace(_PORT, "{port}") for word in program]
    # `none` means no check there; the yard always checks, at the usual path.
    path = model.check_endpoint if model.check_endpoint.startswith("/") else _HEALTH
    return {
        "path": "none",
        "engine": "command",
        "args": args,
        **({"health_path": path} if path != _HEALTH else {}),
        **({"env": env} if env else {}),
    }


def _convert(given: object) -> _Model:
    try:
        return msgspec.convert(given, _Model, strict=False)
    except msgspec.ValidationError as error:
        raise CannotImport(f"it is not in the format of llama-swap ({error})") from error


def _parameters(filters: Mapping[str, Any], note: Note) -> Fields:
    dropped = filters.get("stripParams") or filters.get("strip_params") or ""
    names = [name.strip() for name in str(dropped).split(",") if name.strip()]
    if unused := sorted(filters.keys() - {"stripParams", "strip_params", "setParams"}):
        note(f"filters {', '.join(unused)} not imported")
    policy = {"dropped": names, "forced": filters.get("setParams")}
    return {field: value for field, value in policy.items() if value}


def expanded(text: str, macros: Mapping[str, Any]) -> str:
    """`text` with all macros expanded; CannotImport for one that is not defined."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("env.") and name[4:] in os.environ:
            return os.environ[name[4:]]
        if name not in macros:
            raise CannotImport(f"there is no macro ${{{name}}}")
        macro = macros[name]
        return " ".join(map(str, macro)) if isinstance(macro, list) else str(macro)

    for _ in range(_DEPTH):
        if not _MACRO.search(text):
            return text
        text = _MACRO.sub(value, text)
        if len(text) > _MAX_CHARS:
            raise CannotImport("its macros make it far too long")
    raise CannotImport("its macros use each other in a circle")
