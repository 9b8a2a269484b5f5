"""Tables on the terminal; with `--json` a list."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from modelyard.cli.output import print_json, print_line
from modelyard.text import printable

_WIDE = 10_000
"""Columns where there is no screen: a program that reads a table needs whole words."""
_NARROW_FIRST, _GAP = 12, 3
"""The minimum width of the first column, and the space between two."""


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, wrap_first: bool = False) -> Table:
    """A table; a column whose title starts with `>` is aligned to the right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        wraps = wrap_first and index == 0
        grid.add_column(
            title.removeprefix(">"),
            justify="right" if title.startswith(">") else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for row in rows:
        grid.add_row(*map(printable, row))
    return grid


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. On a narrow terminal its first column wraps."""
    grid = make_table(header, rows, wrap_first=True)
    if not sys.stdout.isatty():
        grid.box = None
    screen(at_least=_min_width(header, rows)).print(grid)


Column = str | Callable[[Any], object]
"""The path of an attribute of an item, or a function of the item."""


def cells(columns: Mapping[str, Column], items: Iterable[object]) -> list[tuple[str, ...]]:
    """A row of texts an item."""
    getters = [attrgetter(column) if isinstance(column, str) else column for column in columns.values()]
    return [tuple(_cell(get(item)) for get in getters) for item in items]


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case tuple() | list():
            return ", ".join(map(str, value))
    return str(value)


def print_rows(columns: Mapping[str, Column], items: Iterable[object]) -> None:
    table(tuple(columns), cells(columns, items))


def listing(empty: str, columns: Mapping[str, Column], items: str) -> Callable[[Any], None]:
    """A function that prints the `items` of a reply as a table, or the sentence `empty`."""
    get = attrgetter(items)
    return lambda reply: print_list(get(reply), columns, empty=empty)


def print_list(
    items: Sequence[object],
    columns: Mapping[str, Column],
    *,
    empty: str,
    arguments: argparse.Namespace | None = None,
) -> None:
    """Print items as a table, or the sentence `empty`; as one JSON list if the arguments have `--json`."""
    if arguments is not None and arguments.json:
        print_json(items)
    elif items:
        print_rows(columns, items)
    else:
        print_line(empty)


def _min_width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Below this columns would be lost; then the terminal wraps the lines."""
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    return min(widths[0], _NARROW_FIRST) + sum(widths[1:]) + _GAP * len(widths)


class Screen(Console):
    """The terminal, printing every text as it is: names may look like markup or emoji codes."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def screen(at_least: int = 0) -> Screen:
    """Standard output for rich; `at_least` columns wide."""
    console = Screen()
    console.width = max(console.width, at_least) if sys.stdout.isatty() else _WIDE
    return console
