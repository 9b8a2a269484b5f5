"""How far downloads are: bars on a terminal, now and then a line elsewhere, or every step as a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from modelyard.cli.output import say, screen
from modelyard.cli.text import clock, safe, spell_duration, spell_size
from schemas.downloads import ENDED, Download

_LINE_EVERY_S = 10.0

Show = Callable[[Download], None]


def amount(download: Download) -> str:
    """What is there of what there will be."""
    if download.bytes_total is None:
        return spell_size(download.bytes_done) if download.bytes_done else ""
    return f"{spell_size(download.bytes_done)} of {spell_size(download.bytes_total)}"


def pace(download: Download) -> str:
    """Speed, and the time that is left, or why nothing moves."""
    if download.trouble is not None:
        return download.trouble
    parts = []
    if download.speed_bytes_s is not None:
        parts.append(f"{spell_size(download.speed_bytes_s)}/s")
    if download.eta_s is not None:
        parts.append(f"{spell_duration(download.eta_s)} left")
    return ", ".join(parts)


def line(download: Download) -> str:
    """One update on one line."""
    percent = ""
    if download.bytes_total and download.state == "transferring":
        percent = f"{100 * download.bytes_done // download.bytes_total}%"
    parts = [f"{download.model}: {download.state}", percent, amount(download), pace(download)]
    return ", ".join(part for part in parts if part)


class Lines:
    """Every change of state, and progress every few seconds."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._shown_at: dict[str, float] = {}

    def show(self, download: Download) -> None:
        now, key = time.monotonic(), download.download
        late = now - self._shown_at.get(key, now) >= _LINE_EVERY_S
        if download.state != self._states.get(key) or late:
            self._states[key], self._shown_at[key] = download.state, now
            say(line(download))


def log(download: Download) -> None:
    """Every update with its time, and the reason of a bad end."""
    reason = f": {download.error.message}" if download.error else ""
    say(f"{clock(time.time())}  {line(download)}{reason}")


def can_redraw() -> bool:
    """Whether bars can move: a terminal that cannot go back would show nothing before the end."""
    return sys.stdout.isatty() and not screen().is_dumb_terminal


@contextmanager
def bar() -> Iterator[Show]:
    """A progress bar on the terminal; call what it gives with every update."""
    with _progress() as progress:
        task = progress.add_task("", total=None, tail="")
        yield lambda download: _update(progress, task, download, str(download.state))


@contextmanager
def bars() -> Iterator[Show]:
    """A bar for each download at work, above them a line for each that ended, below them those that wait."""
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}
        waiting: set[str] = set()
        rest = progress.add_task("", total=None, tail="", visible=False)

        def show(download: Download) -> None:
            key = download.download
            (waiting.add if download.state in ("queued", "paused") else waiting.discard)(key)
            progress.update(rest, visible=bool(waiting), description=f"{len(waiting)} waiting")
            if download.state in ENDED:
                if (task := tasks.pop(key, None)) is not None:
                    progress.remove_task(task)
                progress.console.print(safe(line(download)))
            elif key not in waiting or key in tasks:
                if key not in tasks:
                    tasks[key] = progress.add_task("", total=None, tail="")
                _update(progress, tasks[key], download, f"{download.model} {download.state}")

        yield show


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    return Progress(*columns, TextColumn("{task.fields[tail]}", markup=False), console=screen())


def _update(progress: Progress, task: TaskID, download: Download, description: str) -> None:
    progress.update(
        task,
        description=safe(description),
        total=download.bytes_total,
        completed=download.bytes_done,
        tail=safe("  ".join(part for part in (amount(download), pace(download)) if part)),
    )
