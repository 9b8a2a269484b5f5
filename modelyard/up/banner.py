"""What a person sees when the yard is up."""

from modelyard.host.credentials import API_KEYS
from modelyard.host.home import RunFile
from modelyard.host.settings import Settings
from modelyard.up.terminal import Terminal

DEMO = "demo"


def show(terminal: Terminal, settings: Settings, running: RunFile, seconds: float) -> None:
    """Where everything is, and one line to try."""
    places = _places(settings, running)
    width = max(len(label) for label, _ in places)
    terminal.say()
    terminal.headline("Modelyard is up", f" after {seconds:.1f} s.")
    for label, value in places:
        terminal.say(f"  {label:<{width}}  {value}")
    terminal.say()
    if running.gateway_url is not None:
        terminal.say("  Try it:")
        terminal.say(f"  {curl_line(f'{running.gateway_url}/v1', settings)}")
        terminal.say()
    terminal.say("  Ctrl-C stops everything.")
    terminal.say()


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
