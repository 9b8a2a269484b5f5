"""The pages of docs/ that derive from the code: `python -m tools.pages cli`, `settings` or `metrics`."""

import argparse
import inspect
import itertools
import sys
from collections.abc import Iterator

from modelyard.cli.parser import VerbParser, parser
from modelyard.host.settings import LIBRARY_VARIABLES, TABLE
from schemas.metric_names import METRICS, MetricType

_CLI = """\
# Command line

Every verb explains itself with `--help`. With `--json` it prints JSON for programs; an error is then the same
document as over HTTP.

"""


def cli() -> str:
    """The verbs of `yard`, from its parser."""
    yard = parser()
    exit_statuses = (yard.epilog or "").split("\n\n")[0].replace("exit status:", "").rstrip().splitlines()
    rows = (line.split(maxsplit=1) for line in exit_statuses if line)
    table = "".join(f"| {code} | {meaning} |\n" for code, meaning in rows)
    return f"{_CLI}| exit status | meaning |\n|---|---|\n{table}" + "".join(_sections(yard, "yard", 2))


def _sections(parent: VerbParser, path: str, level: int) -> Iterator[str]:
    for name, verb in parent.verbs.items():
        verb.complete()
        yield f"\n{'#' * level} {path} {name}\n\n{_description(verb)}{_arguments(verb)}"
        yield from _sections(verb, f"{path} {name}", level + 1)


def _description(verb: VerbParser) -> str:
    """Paragraphs as they are, and lines that are indented as code."""
    blocks = [*(verb.description or "").strip("\n").split("\n\n"), *(verb.epilog or "").split("\n\n")]
    return "".join(f"{_block(block)}\n\n" for block in blocks if block.strip())


def _block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    groups = itertools.groupby(lines, key=lambda line: line.startswith(("  ", "yard ")))
    parts = (("\n".join(group), is_code) for is_code, group in groups)
    return "\n\n".join(f"```\n{inspect.cleandoc(text)}\n```" if is_code else text for text, is_code in parts)


def _arguments(verb: VerbParser) -> str:
    rows = [
        f"| `{_spelling(action)}` | {_cell(_meaning(action))} |\n"
        for action in verb.arguments
        if action.dest != "help" and action.help is not argparse.SUPPRESS
    ]
    return f"| argument | meaning |\n|---|---|\n{''.join(rows)}" if rows else ""


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or (
        "\\|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    )
    value = str(value).replace("|", "\\|").replace("\\\\", "\\")
    if not action.option_strings:
        return f"{value} …" if action.nargs in ("*", "+") else f"[{value}]" if action.nargs == "?" else value
    flags = ", ".join(action.option_strings)
    optional = f" [{value}]" if action.nargs == "?" else f" {value}"
    return flags if action.nargs == 0 else flags + optional


def _meaning(action: argparse.Action) -> str:
    meaning = (action.help or "").strip().replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"{meaning} (required)".strip() if action.option_strings and action.required else meaning


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_SETTINGS = """\
# Settings

A setting is an environment variable; a process reads it when it starts. A wrong value ends the process with a
sentence and exit status 78, and `yard up` warns of a variable with the prefix `YARD_` that is none of these.
`yard settings` shows every setting with its value and where that comes from.

| setting | default | meaning |
|---|---|---|
"""
_OTHER_PROGRAMS = """
Variables of other programs that a yard reads, too:

| variable | meaning |
|---|---|
"""


def settings() -> str:
    """The table of settings."""
    rows = (f"| `{entry.variable}` | {_default(entry.default_text)} | {entry.meaning} |\n" for entry in TABLE)
    others = (f"| `{name}` | {meaning} |\n" for name, meaning in LIBRARY_VARIABLES.items())
    return _SETTINGS + "".join(rows) + _OTHER_PROGRAMS + "".join(others)


def _default(text: str) -> str:
    return text if " " in text or not text else f"`{text}`"


_METRICS = """\
# Metrics

The monitor samples all metrics once a second. They are available

- for Prometheus at `GET /metrics` of the gateway, in the text format or, if the scraper asks for it, as
  OpenMetrics. With API keys in use, a key is needed: `authorization: {type: Bearer, credentials: KEY}`;
- as JSON at `GET /api/metrics` (`?names=a,b`), and over NATS by `yard.command.metrics.now`;
- with a day of history at `GET /api/metrics/history?names=a,b&since=…&until=…&step_s=…`, where every other
  parameter is a label with its value, and over NATS by `yard.command.metrics.query`. Each point has the
  minimum, the mean and the maximum of its step; for a counter they are the increase per second. Steps are
  10 s for the last two hours and 60 s before;
- for an OpenTelemetry collector, with `OTEL_EXPORTER_OTLP_ENDPOINT` set and `modelyard[otel]` installed,
  every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds (60000).

A sensor that does not respond has no sample, nor has an instance that ended or a device that has been silent
for 10 s. Counters restart with the monitor: from the events that it missed, and, if the event stream is
complete, from all events. Counters by model, key or error have at most 200 series each; further ones are
summed up under `other`.

`examples/prometheus/` has a configuration, alert rules and a Grafana dashboard.

| metric | type | labels | history | meaning |
|---|---|---|---|---|
"""


def metrics() -> str:
    """The table of metrics, from the contract."""
    rows = (
        f"| `{metric.name}` | {metric.type} | {_labels(metric.labels, metric.type)} | "
        f"{'yes' if metric.has_history else 'no'} | "
        f"{metric.help} |\n"
        for metric in METRICS
    )
    return _METRICS + "".join(rows)


def _labels(labels: tuple[str, ...], kind: MetricType) -> str:
    named = (*labels, "le") if kind is MetricType.HISTOGRAM else labels
    return ", ".join(f"`{label}`" for label in named) or "-"


PAGES = {"cli": cli, "settings": settings, "metrics": metrics}
"""By the name of the file in docs/."""

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
