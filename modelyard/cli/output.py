"""Standard output: sentences for people, JSON for programs, and questions at the terminal."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from modelyard.text import printable
from schemas.errors import Cancelled

_LINE_BYTES = 65536


def print_json(document: Any) -> None:
    """Print one JSON document on a line of its own."""
    print(msgspec.json.encode(document).decode(), flush=True)


def print_line(text: str) -> None:
    print(printable(text), flush=True)


def print_result(arguments: argparse.Namespace, document: object, sentence: str) -> None:
    """Print a result: the document with `--json`, else the sentence."""
    if arguments.json:
        print_json(document)
    else:
        print_line(sentence)


def print_error(sentence: str) -> None:
    sys.stdout.flush()
    print(f"yard: {printable(sentence)}", file=sys.stderr, flush=True)


@contextmanager
def on_interrupt(sentence: Callable[[], str]) -> Iterator[None]:
    """A block that prints a sentence, unless it is empty, to standard error when Ctrl-C ends it."""
    try:
        yield
    except asyncio.CancelledError:
        if text := sentence():
            print(f"\n{text}", file=sys.stderr)
        raise


async def ask(prompt: str) -> str | None:
    """The next line that is typed, while the connection stays alive; None at the end of input."""
    print(prompt, end="", file=sys.stderr, flush=True)
    typed, loop, keyboard = asyncio.Event(), asyncio.get_running_loop(), sys.stdin.fileno()
    loop.add_reader(keyboard, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(keyboard)
    # A terminal delivers a line at a time; not through sys.stdin, whose buffer would hide a second one.
    line = os.read(keyboard, _LINE_BYTES)
    return line.decode(errors="replace").rstrip("\n") if line else None


async def confirm(arguments: argparse.Namespace, question: str, refusal: str) -> None:
    """Ask the person at the terminal; Cancelled with `refusal` unless the answer is yes.

    Programs, and command lines with `--yes`, are not asked.
    """
    if arguments.yes or arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if (await ask(f"{question} [y/N] ") or "").strip().lower() not in ("y", "yes"):
        raise Cancelled(refusal)
