"""The table of settings as a page: `python -m tools.settings_page`."""

import sys

from modelyard.host.settings import LIBRARY_VARIABLES, TABLE

_HEAD = """\
# Settings

A setting is an environment variable; a process reads it when it starts. A wrong value ends the process with a
sentence and exit status 78, and `yard up` warns of a variable with the prefix `YARD_` that is none of these.
`yard settings` shows every setting with its value and where that comes from.

| setting | default | meaning |
|---|---|---|
"""
_OTHERS = """
Variables of other programs that a yard reads, too:

| variable | meaning |
|---|---|
"""


def text() -> str:
    """The page as it lies in `docs/settings.md`."""
    rows = (f"| `{entry.variable}` | {_default(entry.default_text)} | {entry.meaning} |\n" for entry in TABLE)
    others = (f"| `{name}` | {meaning} |\n" for name, meaning in LIBRARY_VARIABLES.items())
    return _HEAD + "".join(rows) + _OTHERS + "".join(others)


def _default(text: str) -> str:
    return text if " " in text or not text else f"`{text}`"


if __name__ == "__main__":
    sys.stdout.write(text())
