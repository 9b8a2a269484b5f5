"""`yard edit`, `rename`, `rm`, `history` and `undo`: one model of the registry."""

import argparse
import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import clock
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.models import ModelSpec, ModelStored
    from schemas.registry import ModelRevision

_EDIT = """Change a model: the fields that are given, or else all of it in $EDITOR.

  yard edit demo n_ctx=4096 'aliases=["small"]' replicas.max=2 ttl_s=

A value is TOML; what is not is taken as text. An empty one sets a field back to its default."""


def register(verbs: Verbs) -> None:
    edit = verbs.add("edit", "Change a model.", _edit)
    edit.description = _EDIT
    _add_model(edit)
    edit.add_argument("fields", nargs="*", type=assignment, metavar="FIELD=VALUE")
    rename = verbs.add("rename", "Give a model another name.", _rename)
    _add_model(rename)
    rename.add_argument("name", metavar="NAME", help="the new name")
    rename.add_argument("--keep-alias", action="store_true", help="the old name goes on as an alias")
    rename.add_argument("--force", action="store_true", help="drain and stop what runs of it")
    remove = verbs.add("rm", "Take a model out of the registry; its files stay.", _remove)
    _add_model(remove)
    remove.add_argument("--force", action="store_true", help="drain and stop what runs of it")
    _add_model(verbs.add("history", "Show the last changes of a model.", _history))
    undo = verbs.add("undo", "Bring an earlier state of a model back, also of a deleted one.", _undo)
    _add_model(undo)
    undo.add_argument("--to", type=int, metavar="REVISION", help="which (default: the last that differs)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name or an alias")


def assignment(text: str) -> dict[str, Any]:
    """`replicas.max=2` as the merge patch that it is; an argparse error if it is none."""
    field, equals, value = text.partition("=")
    if not equals or not all(field.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    patch: Any = _value(value)
    for name in reversed(field.split(".")):
        patch = {name: patch}
    return dict(patch)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if text else None
    except tomllib.TOMLDecodeError:
        return text


async def _edit(yard: "Client", arguments: argparse.Namespace) -> None:
    before = await yard.registry.get(arguments.model)
    if arguments.fields:
        patch: dict[str, Any] = {}
        for each in arguments.fields:
            patch = _joined(patch, each)
        stored = await yard.registry.patch(before.spec.name, patch, before.revision)
    else:
        stored = await yard.registry.put(in_editor(before.spec), before.revision)
    _tell_stored(arguments, stored, changed=stored.revision != before.revision)


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two patches as one; unlike in a merge, null stays: it says that a field is to go."""
    both = dict(one)
    for name, value in other.items():
        mine = both.get(name)
        both[name] = _joined(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def in_editor(spec: "ModelSpec") -> "ModelSpec":
    """The spec as a person leaves it in $EDITOR; BadRequest if that is none, or another model."""
    import tempfile

    from modelyard.specs.toml import read_toml, write_toml
    from schemas.errors import BadRequest

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.toml"
        path.write_text(write_toml([spec]))
        words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        try:
            subprocess.run([*words, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BadRequest(f"The editor {words[0]!r} failed; nothing was changed.") from error
        edited = read_toml(path.read_text())
    if [each.name for each in edited] != [spec.name]:
        raise BadRequest(f"Leave one model called {spec.name} in the file; `yard rename` changes a name.")
    return edited[0]


async def _rename(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.registry.rename(
        arguments.model, arguments.name, keep_alias=arguments.keep_alias, force=arguments.force
    )
    _tell_stored(arguments, stored, said=f"{arguments.model} is called {stored.name} now.")


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    deleted = await yard.registry.delete(arguments.model, force=arguments.force)
    if arguments.json:
        emit(deleted)
    else:
        say(f"{deleted.name} is out of the registry. `yard undo {deleted.name}` brings it back.")


async def _undo(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.registry.undo(arguments.model, arguments.to)
    _tell_stored(arguments, stored, said=f"{stored.name} is as it was (revision {stored.revision}).")


def _tell_stored(
    arguments: argparse.Namespace, stored: "ModelStored", *, changed: bool = True, said: str | None = None
) -> None:
    if arguments.json:
        emit(stored)
    elif changed:
        say(said or f"{stored.name} is changed (revision {stored.revision}).")
    else:
        say("Nothing to change.")


async def _history(yard: "Client", arguments: argparse.Namespace) -> None:
    history = await yard.registry.history(arguments.model)
    if arguments.json:
        emit(history)
        return
    older = [*history.revisions[1:], None]
    rows = [
        (str(new.revision), clock(new.at), new.by, change(new, old))
        for new, old in zip(history.revisions, older, strict=True)
    ]
    table((">REVISION", "TIME", "BY", "CHANGE"), rows)


def change(new: "ModelRevision", old: "ModelRevision | None") -> str:
    """What one revision did, in a line."""
    from modelyard.specs.documents import differences
    from modelyard.specs.proposal import line

    if new.spec is None:
        return "deleted or renamed"
    if old is None or old.spec is None:
        return f"put: {new.spec.path}"
    return "; ".join(line(each) for each in differences(old.spec, new.spec)) or "the same"
