"""How far downloads are, as bars on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from modelyard.cli.output import screen
from modelyard.cli.progress import amount, line, pace
from modelyard.cli.text import safe
from schemas.downloads import ENDED, Download

Show = Callable[[Download], None]


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
