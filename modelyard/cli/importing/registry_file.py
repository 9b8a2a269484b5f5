"""`yard apply`, `yard export` and `yard import`: the registry as a file."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.importing import llama_swap
from modelyard.cli.importing.llm_json import read_llm_deploy, read_llm_manager
from modelyard.cli.importing.result import UNEXPECTED_SHAPE, ImportResult, StorePaths
from modelyard.cli.importing.toml import read_toml, registry_changes, write_toml
from modelyard.cli.output import confirm, print_error, print_json, print_line
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import online
from modelyard.client import Client
from modelyard.documents import without_defaults
from modelyard.host.settings import load
from schemas.errors import BadRequest
from schemas.models import ModelSpec

_APPLY = """
The file has [[model]] tables, as `yard export` writes them. Changes are shown first: + is new, ~ changed,
- deleted. All of them are made, or none.
"""
_IMPORT = """
It reads LLM-Manager's config.json, Local LLM Deploy's models.json and llama-swap's config.yaml, and shows
the changes first. A model that cannot be imported is named with its reason, and then nothing is changed,
unless --skip leaves it out.
"""


def register(verbs: Mapping[str, VerbParser]) -> None:
    apply = verbs["apply"]
    apply.describe(_APPLY)
    apply.add_argument("-f", "--file", required=True, help="the file; - is standard input")
    apply.flag("--prune", text="delete models that are not in the file")
    apply.flag("--force", text="drain and stop running instances of deleted models")
    online(apply, _apply)
    export = verbs["export"]
    export.add_argument("models", nargs="*", metavar="MODEL", help="only these (default: all)")
    online(export, _export, json="a JSON list")
    foreign = verbs["import"]
    foreign.describe(_IMPORT)
    foreign.add_argument("file", type=Path)
    text = "the folder whose contents are in the store (default: the store)"
    foreign.add_argument("--root", type=Path, metavar="DIR", help=text)
    foreign.flag("--skip", text="leave out models that cannot be imported")
    text = "print TOML for `yard apply`; change nothing"
    foreign.add_argument("--print", action="store_true", dest="toml", help=text)
    foreign.set_defaults(prune=False, force=False)
    online(foreign, _import)
    for parser in (apply, foreign):
        parser.flag("--dry-run", text="show and check; change nothing")
        parser.flag("-y", "--yes", text="do not ask")


async def _export(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.models:
        specs = [(await yard.registry.get(name)).spec for name in arguments.models]
    else:
        specs = [record.spec for record in await yard.registry.records()]
    if arguments.json:
        print_json([without_defaults(spec) for spec in specs])
    else:
        # Unchanged: a file for `apply`, not a text for a terminal.
        sys.stdout.write(write_toml(specs))


async def _apply(yard: Client, arguments: argparse.Namespace) -> None:
    text = sys.stdin.read() if arguments.file == "-" else _read(Path(arguments.file))
    await _change(yard, read_toml(text), arguments)


async def _import(yard: Client, arguments: argparse.Namespace) -> None:
    result = read_foreign(arguments.file, _read(arguments.file), arguments.root or load().models)
    _report_refusals(result, skip=arguments.skip)
    if arguments.toml:
        sys.stdout.write(write_toml(result.specs))
    else:
        await _change(yard, result.specs, arguments)


def _report_refusals(result: ImportResult, *, skip: bool) -> None:
    """Print notes and refusals to standard error; BadRequest for a refusal unless they are skipped."""
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    for sentence in result.refused:
        print_error(sentence)
    if result.refused and not skip:
        raise BadRequest(f"{len(result.refused)} of the models cannot be imported; --skip leaves them out.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not a text in UTF-8.") from error


async def _change(yard: Client, specs: Sequence[ModelSpec], arguments: argparse.Namespace) -> None:
    changes = registry_changes(await yard.registry.records(), specs, prune=arguments.prune)
    for line in () if arguments.json else changes.lines():
        print_line(line)
    count, done = len(changes), "would be "
    applied = await yard.registry.apply(changes.request(force=arguments.force, dry_run=True))
    if count and not arguments.dry_run:
        await confirm(arguments, f"Change {count} model{'s' if count > 1 else ''}?", "Nothing was changed.")
        applied = await yard.registry.apply(changes.request(force=arguments.force, dry_run=False))
        done = ""
    if arguments.json:
        print_json(applied)
    elif not count:
        print_line("Nothing to change.")
    else:
        print_line(f"{len(applied.stored)} {done}stored, {len(applied.deleted)} {done}deleted.")


def read_foreign(path: Path, text: str, root: Path) -> ImportResult:
    """The models of the file; BadRequest if no known program writes such a file.

    `root`: the folder whose contents are in the store, under the same paths.
    """
    yaml = path.suffix.lower() in (".yaml", ".yml")
    document = _decode(path, text, yaml=yaml)
    paths = StorePaths(path.absolute().parent, root.absolute())
    try:
        if yaml and isinstance(document.get("models"), dict):
            return llama_swap.read(document, paths)
        if yaml:
            raise BadRequest(f"{path} has no `models:`, so it is no configuration of llama-swap.")
        if isinstance(document.get("program"), dict):
            return read_llm_manager(document, paths)
        models = [model for model in document.values() if isinstance(model, dict)]
        if any("repo_id" in model or "type" in model for model in models):
            return read_llm_deploy(document, paths)
    except UNEXPECTED_SHAPE as error:
        raise BadRequest(f"{path} is not in the format of its program.") from error
    raise BadRequest(
        f"{path} is neither a config.json of LLM-Manager (with `program`) nor a models.json of "
        "Local LLM Deploy (with `repo_id`)."
    )


def _decode(path: Path, text: str, *, yaml: bool) -> dict[str, Any]:
    decode = msgspec.yaml.decode if yaml else msgspec.json.decode
    try:
        return decode(text.encode(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadRequest(f"{path} cannot be understood: {error}.") from error
    except RecursionError as error:
        raise BadRequest(f"{path} cannot be understood: it is nested too deeply.") from error
