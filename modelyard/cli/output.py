"""Standard output: tables for people, JSON for programs."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 10_000
"""Columns where there is no screen: a program that reads a table wants whole words."""
_NARROW_FIRST, _GAP = 12, 3
"""What the first column needs at least, and what lies between two."""


def emit(document: Any) -> None:
    """One JSON document on a line of its own."""
    print(msgspec.json.encode(document).decode(), flush=True)


def say(text: str) -> None:
    """A line for people."""
    print(safe(text), flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. The first column may wrap; one whose title starts with `>` is set flush right."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        grid.add_column(
            title.removeprefix(">"),
            justify="right" if title.startswith(">") else "left",
            no_wrap=index > 0,
            overflow="fold" if index == 0 else "ellipsis",
        )
    for row in rows:
        grid.add_row(*map(safe, row))
    screen(at_least=_narrowest(header, rows)).print(grid)


def _narrowest(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Below this columns would be lost; rather let the terminal wrap the lines."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    return min(widths[0], _NARROW_FIRST) + sum(widths[1:]) + _GAP * len(widths)


def screen(at_least: int = 0) -> "Console":
    """The terminal, taking every text as it is: names may look like markup or emoji codes."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    known = Screen(markup=False, emoji=False, highlight=False)
    known.width = max(known.width, at_least) if sys.stdout.isatty() else _WIDE
    return known
