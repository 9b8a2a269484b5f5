"""What a person sees when the yard is up."""

from rich.console import Console
from rich.table import Table

from modelyard.credentials import API_KEYS
from modelyard.home import RunFile
from modelyard.settings import Settings

DEMO = "demo"


def show(console: Console, settings: Settings, running: RunFile, seconds: float) -> None:
    """Where everything is, and one line to try."""
    table = Table.grid(padding=(0, 2))
    for label, value in _places(settings, running):
        table.add_row(f"  {label}", value)
    console.print()
    console.print(f"[bold]Modelyard is up[/bold] after {seconds:.1f} s.", highlight=False)
    console.print(table, highlight=False)
    console.print()
    if running.gateway_url is not None:
        console.print("  Try it:", highlight=False)
        # One long line on purpose, and not through rich: it has to survive being copied.
        console.file.write(f"  {curl_line(f'{running.gateway_url}/v1', settings)}\n")
        console.print()
    console.print("  Ctrl-C stops everything.", highlight=False)
    console.print()


def _places(settings: Settings, running: RunFile) -> list[tuple[str, str]]:
    """Where everything is."""
    gateway = running.gateway_url
    edge = [("Dashboard", f"{gateway}/"), ("OpenAI base URL", f"{gateway}/v1")] if gateway else []
    node = [("Node", settings.node)] if settings.joined else []
    return [*edge, ("NATS", running.nats_url), *node, ("Data", str(settings.home))]


def curl_line(base: str, settings: Settings) -> str:
    """A chat with the demo model, streamed. Where a key is needed it is read from its file, not shown."""
    keys = settings.credentials / API_KEYS
    key = f""" -H "Authorization: Bearer $(grep -v '^#' '{keys}' | head -n 1)\"""" if keys.exists() else ""
    body = f'{{"model":"{DEMO}","stream":true,"messages":[{{"role":"user","content":"Hello!"}}]}}'
    return f"curl -sN {base}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
