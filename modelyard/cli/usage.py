"""`yard usage`."""

import argparse
import time
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.requests import UsageReport

_COUNTS = ("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens")
_HEADER = ("MODEL", ">REQUESTS", ">FAILED", ">CANCELLED", ">PROMPT", ">CACHED", ">ANSWER")


def register(verbs: Verbs) -> None:
    parser = verbs.add("usage", "Sum up requests and tokens by model.", _usage)
    parser.add_argument(
        "--since", type=duration, metavar="TIME", help="only the last 24h, 7d, … (default: all there is)"
    )
    parser.add_argument("--model", metavar="MODEL", help="only this model")


async def _usage(yard: "Client", arguments: argparse.Namespace) -> None:
    since = None if arguments.since is None else time.time() - arguments.since
    report = await yard.usage(since=since, model=arguments.model)
    if arguments.json:
        emit(report)
    elif not report.models:
        say("No requests were made in that time.")
    else:
        table(_HEADER, rows(report))


def rows(report: "UsageReport") -> list[tuple[str, ...]]:
    """A row a model, and their sum below when there are several."""
    counts = [[getattr(model, count) for count in _COUNTS] for model in report.models]
    named = [(model.model, numbers) for model, numbers in zip(report.models, counts, strict=True)]
    if len(named) > 1:
        named.append(("total", [sum(column) for column in zip(*counts, strict=True)]))
    return [(name, *(f"{number:,}" for number in numbers)) for name, numbers in named]
