"""How far a download is: a bar on a terminal, now and then a line elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn

from modelyard.cli.output import say, screen
from modelyard.cli.text import safe, spell_duration, spell_size
from schemas.downloads import Download

_LINE_EVERY_S = 10.0


def amount(download: Download) -> str:
    """What is there of what there will be."""
    if download.bytes_total is None:
        return spell_size(download.bytes_done) if download.bytes_done else ""
    return f"{spell_size(download.bytes_done)} of {spell_size(download.bytes_total)}"


def pace(download: Download) -> str:
    """Speed, and the time that is left."""
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
        self._state: str | None = None
        self._shown_at = 0.0

    def show(self, download: Download) -> None:
        now = time.monotonic()
        if download.state != self._state or now - self._shown_at >= _LINE_EVERY_S:
            self._state, self._shown_at = download.state, now
            say(line(download))


@contextmanager
def bar() -> Iterator[Callable[[Download], None]]:
    """A progress bar on the terminal; call what it gives with every update."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    tail = TextColumn("{task.fields[tail]}", markup=False)
    with Progress(*columns, tail, console=screen()) as progress:
        task = progress.add_task("", total=None, tail="")

        def show(download: Download) -> None:
            progress.update(
                task,
                description=safe(str(download.state)),
                total=download.bytes_total,
                completed=download.bytes_done,
                tail="  ".join(part for part in (amount(download), pace(download)) if part),
            )

        yield show
