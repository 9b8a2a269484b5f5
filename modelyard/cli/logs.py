"""`yard logs`, `yard events` and `yard audit`: what engines printed, what happened, and who changed what."""

import argparse
import itertools
import re
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

from modelyard.cli.arguments import parse_duration
from modelyard.cli.output import print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import online
from modelyard.client import Client, Event
from modelyard.text import format_clock
from schemas import subjects
from schemas.audit import Actor, Audited
from schemas.base import model_key
from schemas.errors import BadRequest
from schemas.logs import LogLevel, LogOrder, LogQuery, MatchedLine
from schemas.models import find_model
from schemas.subject import Kind

_LEVELS = ("debug", "info", "warning", "error")
_SERVICES = ("gateway", "downloader", "supervisor", "monitor")
_SEARCH_ONLY = ("until", "model", "node", "service", "level", "newest", "limit")
_SEARCH_SINCE_S = 3600.0
_EVENTS_SINCE_S = 600.0
_AUDIT_SINCE_S = 24 * 3600.0
_INSTANCE_ID = re.compile(r"[0-9a-f]{16}")
_AUDIT = """
A client over HTTP is named by the id of its API key and its address; one over NATS by its login, and by the
user name that its program reports, which is not verified.
"""
_EVENT_FIELDS = (
    *("model", "name", "instance", "node", "download", "request", "outcome", "state", "tokens_per_s"),
    *("command", "target", "rule", "sentence", "error"),
)
"""The fields of an event's data that its line shows."""
_MAX_VALUE_CHARS = 60


def register(verbs: Mapping[str, VerbParser]) -> None:
    _register_logs(verbs["logs"])
    events = verbs["events"]
    events.flag("-f", "--follow", "--replay", text="continue with new events")
    events.add_argument("--kind", help="only events about a model, an instance, an alert, …")
    events.add_argument("--model", help="only events about this model")
    _add_since(events, _EVENTS_SINCE_S, "10m (the default), 2h or 7d")
    online(events, _events, json="JSON lines")
    audit = verbs["audit"]
    audit.describe(_AUDIT)
    _add_since(audit, _AUDIT_SINCE_S, "2h (default: 1d)")
    who = "only by a user, key, login, node or address that contains this"
    audit.add_argument("--who", metavar="TEXT", help=who)
    audit.add_argument("--what", metavar="TEXT", help="only commands or targets that contain this")
    audit.flag("--refused", text="only refused commands")
    audit.flag("-f", "--follow", text="continue with new ones")
    online(audit, _audit, json="JSON lines")


def _add_since(parser: VerbParser, default_s: float, examples: str) -> None:
    text = f"how far back to begin, like {examples}; at most 7 days are stored"
    parser.add_argument("--since", type=parse_duration, default=default_s, metavar="TIME", help=text)


def _register_logs(parser: VerbParser) -> None:
    text = "a model (its newest instance) or an instance; without it all of the yard is searched"
    parser.add_argument("name", nargs="?", metavar="MODEL|INSTANCE", help=text)
    text = "how far back to begin, like 10m, 2h or 7d; of a model, all its instances since then"
    parser.add_argument("--since", type=parse_duration, metavar="TIME", help=text)
    text = "only lines that contain this text, ignoring case"
    parser.add_argument("--grep", "--search", metavar="TEXT", help=text)
    search = parser.section("search (also without MODEL|INSTANCE; --since is then 1h by default)")
    search("--until", type=parse_duration, metavar="TIME", help="how far back to end, like 10m")
    search("--model", help="lines of a model, and those of services about it")
    search("--node", help="lines of one node")
    search("--service", choices=_SERVICES, help="lines of one service")
    search("--level", choices=_LEVELS, help="lines of at least this level")
    search("--newest", action="store_true", help="the newest lines first")
    search("-n", "--limit", type=int, metavar="COUNT", help="at most this many lines")
    parser.flag("-f", "--follow", text="continue with new lines")
    online(parser, _logs, json="JSON lines")


async def _logs(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.name is None or any(getattr(arguments, name) for name in _SEARCH_ONLY):
        await _search(yard, arguments)
        return
    since = None if arguments.since is None else time.time() - arguments.since
    lines = yard.logs(arguments.name, since=since, grep=arguments.grep, follow=arguments.follow)
    async with aclosing(lines):
        async for line in lines:
            print_result(arguments, line, line.text)


async def _search(yard: Client, arguments: argparse.Namespace) -> None:
    now = time.time()
    query = LogQuery(
        **await _resolve(yard, arguments.model or arguments.name),
        text=arguments.grep,
        node=arguments.node,
        service=arguments.service,
        level=LogLevel[arguments.level.upper()] if arguments.level else None,
        since=now - (_SEARCH_SINCE_S if arguments.since is None else arguments.since),
        until=None if arguments.until is None else now - arguments.until,
    )
    order = LogOrder.NEWEST if arguments.newest else LogOrder.OLDEST
    numbers = itertools.count(1)
    async with aclosing(yard.find_logs(query, order=order, follow=arguments.follow)) as lines:
        async for line in lines:
            print_result(arguments, line, format_line(line))
            if next(numbers) == arguments.limit:
                return


async def _resolve(yard: Client, name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    spec = find_model(name, await yard.models())
    if spec is None and _INSTANCE_ID.fullmatch(name):
        return {"instance": name}
    return {"model": spec.name if spec else name}


def format_line(line: MatchedLine) -> str:
    """Time, node, level, source and text."""
    return f"{format_clock(line.at)}  {line.node}  {line.level:<7}  {line.model or line.source}: {line.text}"


async def _events(yard: Client, arguments: argparse.Namespace) -> None:
    since = time.time() - arguments.since
    kinds = sorted({subject.noun for subject in subjects.ALL if subject.kind is Kind.EVENT})
    if arguments.kind is not None and arguments.kind not in kinds:
        about = f"{arguments.kind!r}; there are those about {', '.join(kinds)}"
        raise BadRequest(f"There are no events about {about}.")
    async with aclosing(yard.events(since, follow=arguments.follow, kind=arguments.kind)) as events:
        async for event in events:
            if arguments.model is None or concerns(event, arguments.model):
                print_result(arguments, event, format_event(event))


def concerns(event: Event, model: str) -> bool:
    """Whether an event is about a model, by its data or by its subject."""
    data = event.data if isinstance(event.data, dict) else {}
    labels = data.get("labels")
    names = [data.get("model"), data.get("target"), labels.get("model") if isinstance(labels, dict) else None]
    names += [side.get("name") for side in (data.get("before"), data.get("after")) if isinstance(side, dict)]
    try:
        key = model_key(model)
    except ValueError:
        return False
    return model in names or key == _model_token(event.subject)


def _model_token(subject: str) -> str | None:
    for event in subjects.ALL:
        if event.kind is Kind.EVENT and "model" in event.tokens:
            with suppress(ValueError):
                return event.parse(subject)["model"]
    return None


def format_event(event: Event) -> str:
    """Time, type and facts."""
    kind = event.headers.get("ce-type", event.subject).removeprefix("yard.event.")
    return f"{_event_time(event)}  {kind:<22} {_event_facts(event.data)}".rstrip()


def _event_time(event: Event) -> str:
    try:
        return format_clock(datetime.fromisoformat(event.headers["ce-time"]).timestamp())
    except (KeyError, ValueError):
        return "-" * len(format_clock(0))


def _event_facts(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    facts = {**(data.get("after") or data.get("before") or {}), **data}
    shown = (name for name in _EVENT_FIELDS if facts.get(name) is not None)
    return " ".join(f"{name}={_event_value(facts[name])}" for name in shown)


def _event_value(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("message") or value.get("code") or ""
    return f"{value:.1f}" if isinstance(value, float) else (str(value).splitlines() or [""])[0]


async def _audit(yard: Client, arguments: argparse.Namespace) -> None:
    since = time.time() - arguments.since
    async with aclosing(yard.audit(since, follow=arguments.follow)) as records:
        async for record in records:
            if _is_selected(record, arguments):
                print_result(arguments, record, format_audit(record))


def _is_selected(record: Audited, arguments: argparse.Namespace) -> bool:
    about = [record.command, record.target, *(change.what for change in record.changes)]
    return (
        (not arguments.refused or record.outcome == "refused")
        and _contains(arguments.who, [format_actor(record.by)])
        and _contains(arguments.what, about)
    )


def _contains(text: str | None, candidates: list[str]) -> bool:
    return text is None or any(text.casefold() in candidate.casefold() for candidate in candidates)


def format_audit(record: Audited) -> str:
    """One command on one line: time, actor, command and result."""
    if record.error is not None:
        result = f"refused ({record.error.code}): {record.error.message}"
    else:
        changes = (_format_change(change.what, change.before, change.after) for change in record.changes)
        result = "; ".join(changes)
    command = f"{record.command} {record.target}"
    return f"{format_clock(record.at)}  {format_actor(record.by):<24} {command}  {result}".rstrip()


def format_actor(actor: Actor) -> str:
    """The most specific name there is."""
    if actor.role == "gateway":
        return " ".join(filter(None, [f"key {actor.key}" if actor.key else "http", actor.address]))
    return "@".join(filter(None, [actor.user or actor.role, actor.node]))


def _format_change(what: str, before: Any, after: Any) -> str:
    if before is None or after is None:
        return f"{what} {'added' if before is None else 'removed'}"
    fields = [
        f"{name}: {_audit_value(before.get(name))} → {_audit_value(value)}" for name, value in after.items()
    ]
    return f"{what} {', '.join(fields)}"


def _audit_value(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 1]}…"
