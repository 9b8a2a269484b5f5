"""`yard apply`, `yard export` and `yard import`: the registry as a file."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.verbs import Verbs, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelyard.client import Client
    from modelyard.specs.importing.found import Found
    from modelyard.specs.proposal import Proposal
    from schemas.models import ModelSpec

_APPLY = """Make the registry look like a TOML file of [[model]] tables, as `yard export` writes them.

What changes is shown first: + is new, ~ changes, - goes. All of it is done, or nothing."""
_IMPORT = """Take models over from another program's file.

It reads LLM-Manager's config.json, Local LLM Deploy's models.json and llama-swap's config.yaml, and shows
first what becomes of them. A model that cannot be taken over is named with its reason, and then nothing
is done, unless --skip leaves it out."""


def register(verbs: Verbs) -> None:
    apply = verbs.add("apply", "Make the registry look like a TOML file.", _apply)
    apply.description = _APPLY
    apply.add_argument("-f", "--file", required=True, metavar="FILE", help="the file; - is standard input")
    apply.add_argument("--prune", action="store_true", help="delete models that are not in the file")
    apply.add_argument("--force", action="store_true", help="drain and stop what runs of a model that goes")
    _add_asking(apply)
    export = verbs.add("export", "Print the registry as a TOML file.", _export, json="a JSON list")
    export.add_argument("models", nargs="*", metavar="MODEL", help="only these (default: all)")
    take = verbs.add("import", "Take models over from another program's file.", _import)
    take.description = _IMPORT
    take.add_argument("file", metavar="FILE", type=Path)
    take.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="the folder whose contents lie in the store (default: the store)",
    )
    take.add_argument("--skip", action="store_true", help="leave out what cannot be taken over")
    take.add_argument(
        "--print", action="store_true", dest="toml", help="print TOML for `yard apply`; do nothing"
    )
    take.set_defaults(prune=False, force=False)
    _add_asking(take)


def _add_asking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show and check, and change nothing")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


async def _export(yard: "Client", arguments: argparse.Namespace) -> None:
    from modelyard.specs.documents import brief
    from modelyard.specs.toml import write_toml

    if arguments.models:
        specs = [(await yard.registry.get(name)).spec for name in arguments.models]
    else:
        specs = [record.spec for record in await yard.registry.records()]
    if arguments.json:
        emit([brief(spec) for spec in specs])
    else:
        # As it is: a file for `apply`, not a text for a terminal.
        sys.stdout.write(write_toml(specs))


async def _apply(yard: "Client", arguments: argparse.Namespace) -> None:
    from modelyard.specs.toml import read_toml

    text = sys.stdin.read() if arguments.file == "-" else _read(Path(arguments.file))
    await _change(yard, read_toml(text), arguments)


async def _import(yard: "Client", arguments: argparse.Namespace) -> None:
    from modelyard.host.settings import load
    from modelyard.specs.importing import read_foreign
    from modelyard.specs.toml import write_toml

    found = read_foreign(arguments.file, _read(arguments.file), arguments.root or load().models)
    _tell(found, skip=arguments.skip)
    if arguments.toml:
        sys.stdout.write(write_toml(found.specs))
    else:
        await _change(yard, found.specs, arguments)


def _tell(found: "Found", *, skip: bool) -> None:
    """Notes and refusals, on standard error; with a refusal it ends here unless they may be skipped."""
    from schemas.errors import BadRequest

    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for sentence in found.refused:
        complain(sentence)
    if found.refused and not skip:
        raise BadRequest(f"{len(found.refused)} of the models cannot be taken over; --skip leaves them out.")


def _read(path: Path) -> str:
    from schemas.errors import BadRequest

    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not a text in UTF-8.") from error


async def _change(yard: "Client", specs: "Sequence[ModelSpec]", arguments: argparse.Namespace) -> None:
    """Show, check, ask, do."""
    from modelyard.specs.proposal import lines, propose

    proposal = propose(await yard.registry.records(), specs, prune=arguments.prune)
    for text in () if arguments.json else lines(proposal):
        say(text)
    applied = await yard.registry.apply(proposal.request(force=arguments.force, dry_run=True))
    do = proposal and not arguments.dry_run
    if do:
        await _confirm(arguments, proposal)
        applied = await yard.registry.apply(proposal.request(force=arguments.force, dry_run=False))
    if arguments.json:
        emit(applied)
    elif not proposal:
        say("Nothing to change.")
    else:
        done = "" if do else "would be "
        say(f"{len(applied.stored)} {done}stored, {len(applied.deleted)} {done}deleted.")


async def _confirm(arguments: argparse.Namespace, proposal: "Proposal") -> None:
    from modelyard.cli.keyboard import ask
    from schemas.errors import Cancelled

    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    count = len(proposal.added) + len(proposal.changed) + len(proposal.removed)
    answer = await ask(f"Change {count} model{'s' if count > 1 else ''}? [y/N] ")
    if (answer or "").strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was changed.")
