"""What `yard up` prints: plain lines, since a library for more would stay in memory as long as the yard."""

import os
import sys
from typing import TextIO

from modelyard.text import printable


class Terminal:
    """A stream of lines for a person."""

    def __init__(self, to: TextIO | None = None) -> None:
        self._to = to or sys.stdout

    def say(self, line: str = "") -> None:
        """Print a line, without what would steer the terminal."""
        self._write(printable(line))

    def headline(self, bold: str, rest: str) -> None:
        """Print a line that begins with something important."""
        self._write(f"\x1b[1m{bold}\x1b[0m{rest}" if self._takes_colour() else bold + rest)

    def _write(self, line: str) -> None:
        self._to.write(f"{line}\n")
        self._to.flush()

    def _takes_colour(self) -> bool:
        """Consoles of old Windows would show the codes."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or sys.platform == "win32"
        return self._to.isatty() and not plain
