"""The progress of downloads: bars on a terminal, lines elsewhere, or every update as a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from modelyard.cli.output import print_line
from modelyard.cli.tables import screen
from modelyard.text import format_clock, format_duration, format_size, printable
from schemas.downloads import ENDED, Download

_LINE_INTERVAL_S = 10.0

Show = Callable[[Download], None]


def amount(download: Download) -> str:
    """`500.0 KiB of 2.0 MiB`; empty when nothing is known."""
    if download.bytes_total is None:
        return format_size(download.bytes_done) if download.bytes_done else ""
    return f"{format_size(download.bytes_done)} of {format_size(download.bytes_total)}"


def pace(download: Download) -> str:
    """Speed and remaining time, or the problem that stops it."""
    if download.problem is not None:
        return download.problem
    parts = []
    if download.speed_bytes_s is not None:
        parts.append(f"{format_size(download.speed_bytes_s)}/s")
    if download.eta_s is not None:
        parts.append(f"{format_duration(download.eta_s)} left")
    return ", ".join(parts)


def line(download: Download) -> str:
    """One update on one line."""
    percent = ""
    if download.bytes_total and download.state == "transferring":
        percent = f"{100 * download.bytes_done // download.bytes_total}%"
    parts = [f"{download.model}: {download.state}", percent, amount(download), pace(download)]
    return ", ".join(part for part in parts if part)


class ProgressLines:
    """A line for every change of state, and for progress every few seconds."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._shown_at: dict[str, float] = {}

    def show(self, download: Download) -> None:
        now, key = time.monotonic(), download.download
        due = now - self._shown_at.get(key, now) >= _LINE_INTERVAL_S
        if download.state != self._states.get(key) or due:
            self._states[key], self._shown_at[key] = download.state, now
            print_line(line(download))


def log(download: Download) -> None:
    """Print an update with its time, and the error of a failed download."""
    reason = f": {download.error.message}" if download.error else ""
    print_line(f"{format_clock(time.time())}  {line(download)}{reason}")


def can_redraw() -> bool:
    """Whether bars can move: a terminal without cursor control would show nothing before the end."""
    return sys.stdout.isatty() and not screen().is_dumb_terminal


@contextmanager
def bar() -> Iterator[Show]:
    """One bar; call the yielded function with every update."""
    with _progress() as progress:
        task = progress.add_task("", total=None, tail="")
        yield lambda download: _update(progress, task, download, str(download.state))


@contextmanager
def bars() -> Iterator[Show]:
    """A bar for each running download; above them a line for each ended one, below the number of waiting."""
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}
        waiting: set[str] = set()
        waiting_task = progress.add_task("", total=None, tail="", visible=False)

        def show(download: Download) -> None:
            key = download.download
            (waiting.add if download.state in ("queued", "paused") else waiting.discard)(key)
            progress.update(waiting_task, visible=bool(waiting), description=f"{len(waiting)} waiting")
            if download.state in ENDED:
                if (task := tasks.pop(key, None)) is not None:
                    progress.remove_task(task)
                progress.console.print(printable(line(download)))
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
        description=printable(description),
        total=download.bytes_total,
        completed=download.bytes_done,
        tail=printable("  ".join(part for part in (amount(download), pace(download)) if part)),
    )
