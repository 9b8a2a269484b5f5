"""How far downloads are, in lines: now and then one, or every step as a log. `bars` is for terminals."""

import sys
import time

from modelyard.cli.output import say, screen
from modelyard.cli.text import clock, spell_duration, spell_size
from schemas.downloads import Download

_LINE_EVERY_S = 10.0


def amount(download: Download) -> str:
    """What is there of what there will be."""
    if download.bytes_total is None:
        return spell_size(download.bytes_done) if download.bytes_done else ""
    return f"{spell_size(download.bytes_done)} of {spell_size(download.bytes_total)}"


def pace(download: Download) -> str:
    """Speed, and the time that is left, or why nothing moves."""
    if download.problem is not None:
        return download.problem
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
