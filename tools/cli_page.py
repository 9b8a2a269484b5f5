"""The verbs of `yard` as a page, derived from the parser: `python -m tools.cli_page`."""

import argparse
import inspect
import itertools
import sys
from collections.abc import Iterator

from modelyard.cli.parser import VerbParser, parser

_HEAD = """\
# Command line

Every verb explains itself with `--help`. With `--json` it prints JSON for programs; an error is then the same
document as over HTTP.

"""


def text() -> str:
    """The page as it lies in `docs/cli.md`."""
    yard = parser()
    exit_statuses = (yard.epilog or "").split("\n\n")[0].replace("exit status:", "").rstrip().splitlines()
    rows = (line.split(maxsplit=1) for line in exit_statuses if line)
    table = "".join(f"| {code} | {meaning} |\n" for code, meaning in rows)
    return f"{_HEAD}| exit status | meaning |\n|---|---|\n{table}" + "".join(_sections(yard, "yard", 2))


def _sections(parent: VerbParser, path: str, level: int) -> Iterator[str]:
    for name, verb in parent.verbs.items():
        verb.complete()
        yield f"\n{'#' * level} {path} {name}\n\n{_description(verb)}{_arguments(verb)}"
        yield from _sections(verb, f"{path} {name}", level + 1)


def _description(verb: VerbParser) -> str:
    """Paragraphs as they are, and lines that are indented as code."""
    blocks = [*(verb.description or "").strip("\n").split("\n\n"), *(verb.epilog or "").split("\n\n")]
    return "".join(f"{_block(block)}\n\n" for block in blocks if block.strip())


def _block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    groups = itertools.groupby(lines, key=lambda line: line.startswith(("  ", "yard ")))
    parts = (("\n".join(group), is_code) for is_code, group in groups)
    return "\n\n".join(f"```\n{inspect.cleandoc(text)}\n```" if is_code else text for text, is_code in parts)


def _arguments(verb: VerbParser) -> str:
    rows = [
        f"| `{_spelling(action)}` | {_cell(_meaning(action))} |\n"
        for action in verb.arguments
        if action.dest != "help" and action.help is not argparse.SUPPRESS
    ]
    return f"| argument | meaning |\n|---|---|\n{''.join(rows)}" if rows else ""


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or (
        "\\|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    )
    value = str(value).replace("|", "\\|").replace("\\\\", "\\")
    if not action.option_strings:
        return f"{value} …" if action.nargs in ("*", "+") else f"[{value}]" if action.nargs == "?" else value
    flags = ", ".join(action.option_strings)
    optional = f" [{value}]" if action.nargs == "?" else f" {value}"
    return flags if action.nargs == 0 else flags + optional


def _meaning(action: argparse.Action) -> str:
    meaning = (action.help or "").strip().replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"{meaning} (required)".strip() if action.option_strings and action.required else meaning


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(text())
