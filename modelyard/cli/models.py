"""`yard list`, `edit`, `rename`, `rm`, `history` and `undo`: the models of the registry."""

import argparse
import os
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.arguments import Argument
from modelyard.cli.importing.toml import read_toml, write_toml
from modelyard.cli.output import print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, print_list, table
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.documents import differences
from modelyard.text import format_clock, format_size
from schemas import subjects
from schemas.downloads import Download
from schemas.errors import BadRequest
from schemas.instances import Instance
from schemas.models import ModelSpec
from schemas.registry import ModelHistory, ModelRevision

_EDIT = """
Changes the given fields, or without any opens the model in $EDITOR.

  yard edit demo n_ctx=4096 'aliases=["small"]' replicas.max=2 ttl_s=

A value is TOML, or else text. An empty one resets a field to its default.
"""
_STATE_ORDER = ("ready", "probing", "loading", "starting", "draining", "stopping", "failed", "stopped")
"""The state of a model is the first of these that one of its instances has."""


_MODELS: dict[str, Column] = {
    "MODEL": itemgetter("name"),
    "MODE": itemgetter("mode"),
    "STATE": itemgetter("state"),
    ">SIZE": lambda model: format_size(model["size_bytes"]),
    "ALIASES": itemgetter("aliases"),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    verbs["list"].epilog = "A model is started by its first request, or before that by `yard start`."
    online(verbs["list"], _list, json="a JSON list")
    edit = verbs["edit"]
    edit.describe(_EDIT)
    edit.add_argument("model")
    edit.add_argument("fields", nargs="*", type=parse_assignment, metavar="FIELD=VALUE")
    online(edit, _edit)
    force = {"force": Argument(help="drain and stop running instances")}
    fields = force | {"name": Argument(help="the new name")}
    renamed, positional = "{1.model} is called {0.name} now.", ("model", "name")
    command(verbs["rename"], subjects.MODEL_RENAME, renamed, positional=positional, fields=fields)
    removed = "{0.name} is removed from the registry. `yard undo {0.name}` brings it back."
    command(verbs["rm"], subjects.MODEL_DELETE, removed, fields=force)
    command(verbs["history"], subjects.MODEL_HISTORY, _show_history)
    to = {"to": Argument(metavar="REVISION", help="which (default: the last that differs)")}
    restored = "{0.name} is as it was (revision {0.revision})."
    command(verbs["undo"], subjects.MODEL_UNDO, restored, fields=to)


async def _list(yard: Client, arguments: argparse.Namespace) -> None:
    models, instances, downloads = await yard.models(), await yard.instances(), await yard.downloads()
    listed: list[dict[str, Any]] = [
        {
            **msgspec.to_builtins(spec),
            "state": state_of(spec.name, instances.values()),
            "size_bytes": size_of(spec.name, downloads.values()),
        }
        for spec in sorted(models.values(), key=attrgetter("name"))
    ]
    empty = "There are no models yet. Download one: yard pull REPO:QUANT"
    print_list(listed, _MODELS, empty=empty, arguments=arguments)


def state_of(model: str, instances: Iterable[Instance]) -> str:
    """The first state in `_STATE_ORDER` among the model's instances; `stopped` without any."""
    states = [str(instance.state) for instance in instances if instance.model == model]
    return min(states, key=_STATE_ORDER.index, default="stopped")


def size_of(model: str, downloads: Iterable[Download]) -> int | None:
    """The bytes of the model's newest finished download; None if there is none."""
    own = (download for download in downloads if (download.model, download.state) == (model, "finished"))
    newest = max(own, key=attrgetter("changed_at"), default=None)
    return newest.bytes_total if newest else None


def parse_assignment(text: str) -> dict[str, Any]:
    """`replicas.max=2` as a merge patch."""
    field, equals, value = text.partition("=")
    if not equals or not all(field.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    patch: Any = _parse_value(value)
    for name in reversed(field.split(".")):
        patch = {name: patch}
    return dict(patch)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if text else None
    except tomllib.TOMLDecodeError:
        return text


async def _edit(yard: Client, arguments: argparse.Namespace) -> None:
    before = await yard.registry.get(arguments.model)
    if arguments.fields:
        patch: dict[str, Any] = {}
        for assignment in arguments.fields:
            patch = _joined(patch, assignment)
        stored = await yard.registry.patch(model=before.spec.name, patch=patch, revision=before.revision)
    else:
        stored = await yard.registry.put(in_editor(before.spec), before.revision)
    changed = stored.revision != before.revision
    sentence = f"{stored.name} is changed (revision {stored.revision})." if changed else "Nothing to change."
    print_result(arguments, stored, sentence)


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two patches as one; unlike in a merge, null stays: it removes a field."""
    both = dict(one)
    for name, value in other.items():
        first = both.get(name)
        both[name] = _joined(first, value) if isinstance(first, dict) and isinstance(value, dict) else value
    return both


def in_editor(spec: ModelSpec) -> ModelSpec:
    """The spec after $EDITOR; BadRequest if it is not valid, or another model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.toml"
        path.write_text(write_toml([spec]))
        words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        try:
            subprocess.run([*words, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BadRequest(f"The editor {words[0]!r} failed; nothing was changed.") from error
        edited = read_toml(path.read_text())
    if [model.name for model in edited] != [spec.name]:
        raise BadRequest(f"Leave one model called {spec.name} in the file; `yard rename` changes a name.")
    return edited[0]


def _show_history(history: ModelHistory) -> None:
    older = [*history.revisions[1:], None]
    rows = [
        (str(new.revision), format_clock(new.at), new.by, change(new, old))
        for new, old in zip(history.revisions, older, strict=True)
    ]
    table((">REVISION", "TIME", "BY", "CHANGE"), rows)


def change(new: ModelRevision, old: ModelRevision | None) -> str:
    """One revision's change in a line."""
    if new.spec is None:
        return "deleted or renamed"
    if old is None or old.spec is None:
        return f"put: {new.spec.path}"
    return "; ".join(map(str, differences(old.spec, new.spec))) or "the same"
