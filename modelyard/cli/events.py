"""`yard events`."""

import argparse
import time
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say
from modelyard.cli.text import clock, duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client, Event

_SINCE_S = 600.0
_FACTS = (
    "model",
    "name",
    "instance",
    "node",
    "download",
    "request",
    "outcome",
    "state",
    "tokens_per_s",
    "command",
    "target",
    "rule",
    "sentence",
    "error",
)
"""What of an event's data goes on its line, as far as it has it."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("events", "Show what happened in the yard.", _events, json="JSON lines")
    parser.add_argument(
        *("-f", "--follow", "--replay"), action="store_true", help="go on with what happens from now on"
    )
    parser.add_argument("--kind", metavar="KIND", help="only events about a model, an instance, an alert, …")
    parser.add_argument("--model", metavar="MODEL", help="only events that concern this model")
    parser.add_argument(
        "--since",
        type=duration,
        default=_SINCE_S,
        metavar="TIME",
        help="how far back to begin, like 10m (the default), 2h or 7d; more than 7 days are not kept",
    )


async def _events(yard: "Client", arguments: argparse.Namespace) -> None:
    since = time.time() - arguments.since
    _check_kind(arguments.kind)
    found = yard.events(since, follow=arguments.follow, kind=arguments.kind)
    async with aclosing(found) as events:
        async for event in events:
            if arguments.model is not None and not concerns(event, arguments.model):
                continue
            if arguments.json:
                emit(event)
            else:
                say(line(event))


def _check_kind(kind: str | None) -> None:
    """BadRequest for one that the contract does not have."""
    from schemas import subjects
    from schemas.errors import BadRequest
    from schemas.subject import Kind

    events = [subject for subject in subjects.ALL if subject.kind is Kind.EVENT]
    kinds = sorted({subject.template.split(".")[2] for subject in events})
    if kind is not None and kind not in kinds:
        raise BadRequest(f"There are no events about {kind!r}; there are those about {', '.join(kinds)}.")


def concerns(event: "Event", model: str) -> bool:
    """Whether an event is about a model, by its data or by its subject."""
    from schemas.base import model_key

    data = event.data if isinstance(event.data, dict) else {}
    labels = data.get("labels")
    named = [data.get("model"), data.get("target"), labels.get("model") if isinstance(labels, dict) else None]
    named += [side.get("name") for side in (data.get("before"), data.get("after")) if isinstance(side, dict)]
    try:
        key = model_key(model)
    except ValueError:
        return False
    return model in named or key in event.subject.split(".")[3:4]


def line(event: "Event") -> str:
    """One event on one line: when, what, and about what."""
    what = event.headers.get("ce-type", event.subject).removeprefix("yard.event.")
    return f"{_when(event)}  {what:<22} {_facts(event.data)}".rstrip()


def _when(event: "Event") -> str:
    try:
        return clock(datetime.fromisoformat(event.headers["ce-time"]).timestamp())
    except (KeyError, ValueError):
        return "-" * len(clock(0))


def _facts(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    facts = {**(data.get("after") or data.get("before") or {}), **data}
    return " ".join(f"{name}={_short(facts[name])}" for name in _FACTS if facts.get(name) is not None)


def _short(value: Any) -> str:
    """The first line of a text; of an error, its sentence."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("code") or ""
    return f"{value:.1f}" if isinstance(value, float) else (str(value).splitlines() or [""])[0]
