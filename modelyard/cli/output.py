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
    screen().print(grid)


def screen() -> "Console":
    """The terminal, taking every text as it is: names may look like markup or emoji codes."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = None if sys.stdout.isatty() else _WIDE
    return Screen(markup=False, emoji=False, highlight=False, width=width)
