"""`yard logs`."""

import argparse
import itertools
import re
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.text import clock, duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.logs import FoundLine

LEVELS = ("debug", "info", "warning", "error")
SERVICES = ("gateway", "downloader", "supervisor", "monitor")
_SEARCH_ONLY = ("until", "model", "node", "service", "level", "newest", "limit")
_SINCE_S = 3600.0
_INSTANCE = re.compile(r"[0-9a-f]{16}")


def register(verbs: Verbs) -> None:
    parser = verbs.add("logs", "Show what engines and services printed.", _logs, json="JSON lines")
    parser.add_argument(
        "name",
        nargs="?",
        metavar="MODEL|INSTANCE",
        help="a model (its newest instance is meant) or an instance; without it all of the yard is searched",
    )
    parser.add_argument(
        "--since",
        type=duration,
        metavar="TIME",
        help="how far back to begin, like 10m, 2h or 7d; of a model, all its instances since then are meant",
    )
    parser.add_argument(
        *("--grep", "--search"), metavar="TEXT", help="only lines with this text, in whatever case"
    )
    search = parser.add_argument_group(
        "search (also what no MODEL|INSTANCE brings about; --since is then 1h, if not given)"
    )
    search.add_argument("--until", type=duration, metavar="TIME", help="how far back to end, like 10m")
    search.add_argument("--model", metavar="MODEL", help="lines of a model, and those of services about it")
    search.add_argument("--node", metavar="NODE", help="lines of one machine")
    search.add_argument("--service", choices=SERVICES, help="lines of one service")
    search.add_argument("--level", choices=LEVELS, help="lines that are at least so bad")
    search.add_argument("--newest", action="store_true", help="the newest lines first")
    search.add_argument("-n", "--limit", type=int, metavar="COUNT", help="at most so many lines")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what it prints from now on")


async def _logs(yard: "Client", arguments: argparse.Namespace) -> None:
    if arguments.name is None or any(getattr(arguments, name) for name in _SEARCH_ONLY):
        await _search(yard, arguments)
        return
    since = None if arguments.since is None else time.time() - arguments.since
    found = yard.logs(arguments.name, since=since, grep=arguments.grep, follow=arguments.follow)
    async with aclosing(found) as lines:
        async for line in lines:
            if arguments.json:
                emit(line)
            else:
                say(line.text)


async def _search(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.logs import LogLevel, LogOrder, LogQuery

    now = time.time()
    model, instance = await _named(yard, arguments.model or arguments.name)
    query = LogQuery(
        text=arguments.grep,
        model=model,
        instance=instance,
        node=arguments.node,
        service=arguments.service,
        level=LogLevel[arguments.level.upper()] if arguments.level else None,
        since=now - (_SINCE_S if arguments.since is None else arguments.since),
        until=None if arguments.until is None else now - arguments.until,
    )
    order = LogOrder.NEWEST if arguments.newest else LogOrder.OLDEST
    numbers = itertools.count(1)
    async with aclosing(yard.find_logs(query, order=order, follow=arguments.follow)) as lines:
        async for line in lines:
            if arguments.json:
                emit(line)
            else:
                say(spelt(line))
            if next(numbers) == arguments.limit:
                return


async def _named(yard: "Client", name: str | None) -> tuple[str | None, str | None]:
    """The model that a name or an alias means; else the instance."""
    from schemas.models import find_model

    if name is None:
        return None, None
    spec = find_model(name, await yard.models())
    if spec is not None:
        return spec.name, None
    return (None, name) if _INSTANCE.fullmatch(name) else (name, None)


def spelt(line: "FoundLine") -> str:
    """One line: when, where, how bad, whose, and what."""
    return f"{clock(line.at)}  {line.node}  {line.level:<7}  {line.model or line.source}: {line.text}"
