"""The terminal output of `yard up`: the banner, and a line per lifecycle event."""

import os
import sys
import time
from typing import TextIO

from modelyard.bus.connection import Bus
from modelyard.host.credentials import API_KEYS
from modelyard.host.home import RunFile
from modelyard.host.settings import Settings
from modelyard.text import printable
from schemas import subjects
from schemas.downloads import Download, DownloadState
from schemas.instances import Instance, InstanceState

DEMO = "demo"
_INSTANCE_PHRASES = {
    InstanceState.STARTING: "is being started",
    InstanceState.READY: "is ready",
    InstanceState.STOPPED: "is stopped",
    InstanceState.FAILED: "failed",
}
_DOWNLOAD_PHRASES = {
    DownloadState.QUEUED: "is queued for download",
    DownloadState.FINISHED: "is downloaded and registered",
    DownloadState.FAILED: "could not be downloaded",
    DownloadState.CANCELLED: "is no longer downloaded",
}


class Terminal:
    """Plain lines on standard output."""

    def __init__(self, to: TextIO | None = None) -> None:
        self._to = to or sys.stdout

    def print_line(self, line: str = "") -> None:
        """Print a line without control characters."""
        self._write(printable(line))

    def print_headline(self, bold: str, rest: str) -> None:
        """Print a line with a bold beginning."""
        self._write(f"\x1b[1m{bold}\x1b[0m{rest}" if self._takes_colour() else bold + rest)

    def _write(self, line: str) -> None:
        self._to.write(f"{line}\n")
        self._to.flush()

    def _takes_colour(self) -> bool:
        """Old Windows consoles print escape codes verbatim."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or sys.platform == "win32"
        return self._to.isatty() and not plain


def print_banner(terminal: Terminal, settings: Settings, running: RunFile, seconds: float) -> None:
    """Print the addresses and a command to try."""
    addresses = _addresses(settings, running)
    width = max(len(label) for label, _ in addresses)
    terminal.print_line()
    terminal.print_headline("Modelyard is up", f" after {seconds:.1f} s.")
    for label, value in addresses:
        terminal.print_line(f"  {label:<{width}}  {value}")
    terminal.print_line()
    if running.gateway_url is not None:
        terminal.print_line("  Try it:")
        terminal.print_line(f"  {curl_line(f'{running.gateway_url}/v1', settings)}")
        terminal.print_line()
    terminal.print_line("  Ctrl-C stops everything.")
    terminal.print_line()


def _addresses(settings: Settings, running: RunFile) -> list[tuple[str, str]]:
    gateway = running.gateway_url
    edge = [("Dashboard", f"{gateway}/"), ("OpenAI base URL", f"{gateway}/v1")] if gateway else []
    node = [("Node", settings.node)] if settings.joined else []
    return [*edge, ("NATS", running.nats_url), *node, ("Data", str(settings.home))]


def curl_line(base: str, settings: Settings) -> str:
    """A streamed chat with the demo model. A required key is read from its file, not shown."""
    keys = settings.credentials / API_KEYS
    key = f""" -H "Authorization: Bearer $(grep -v '^#' '{keys}' | head -n 1)\"""" if keys.exists() else ""
    body = f'{{"model":"{DEMO}","stream":true,"messages":[{{"role":"user","content":"Hello!"}}]}}'
    return f"curl -sN {base}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


class EventPrinter:
    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    async def follow(self, bus: Bus) -> None:
        await bus.subscribe(subjects.INSTANCE_CHANGED, self._on_instance)
        await bus.subscribe(subjects.DOWNLOAD_CHANGED, self._on_download)

    async def _on_instance(self, _tokens: dict[str, str], instance: Instance) -> None:
        if (phrase := _INSTANCE_PHRASES.get(instance.state)) is None:
            return
        detail = ""
        if instance.state is InstanceState.READY:
            detail = f" after {instance.load_s:.1f} s, {instance.slots} slots" if instance.load_s else ""
        self._print(instance.model, phrase, instance.error or detail)

    async def _on_download(self, _tokens: dict[str, str], download: Download) -> None:
        if (phrase := _DOWNLOAD_PHRASES.get(download.state)) is not None:
            self._print(download.model, phrase, download.error.message if download.error else "")

    def _print(self, subject: str, phrase: str, detail: str) -> None:
        clock = time.strftime("%H:%M:%S")
        colon = ": " if detail and not detail.startswith(" ") else ""
        self._terminal.print_line(f"  {clock}  {subject} {phrase}{colon}{detail}")
