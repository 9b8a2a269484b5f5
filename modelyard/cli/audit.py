"""`yard audit`: who changed what."""

import argparse
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say
from modelyard.cli.text import clock, duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.audit import Actor, Audited

_SINCE_S = 24 * 3600.0
_SHORT = 60
_MORE = """

Who came over HTTP is named by the id of his API key and his address; who came over NATS by the login, and by
what his program says the user's name is, which nobody checked.
"""


def register(verbs: Verbs) -> None:
    parser = verbs.add("audit", "Show who changed what.", _audit, json="JSON lines")
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument(
        "--since",
        type=duration,
        default=_SINCE_S,
        metavar="TIME",
        help="how far back to begin, like 2h (default: 1d); more than 7 days are not kept",
    )
    parser.add_argument(
        "--who", metavar="TEXT", help="only by a user, key, login, machine or address like this"
    )
    parser.add_argument("--what", metavar="TEXT", help="only commands or things like this")
    parser.add_argument("--refused", action="store_true", help="only what was refused")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")


async def _audit(yard: "Client", arguments: argparse.Namespace) -> None:
    since = time.time() - arguments.since
    async with aclosing(yard.audit(since, follow=arguments.follow)) as found:
        async for each in found:
            if not _asked_for(each, arguments):
                continue
            if arguments.json:
                emit(each)
            else:
                say(line(each))


def _asked_for(each: "Audited", arguments: argparse.Namespace) -> bool:
    about = [each.command, each.target, *(change.what for change in each.changes)]
    return (
        (not arguments.refused or each.outcome == "refused")
        and _like(arguments.who, [who(each.by)])
        and _like(arguments.what, about)
    )


def _like(text: str | None, candidates: list[str]) -> bool:
    return text is None or any(text.casefold() in each.casefold() for each in candidates)


def line(each: "Audited") -> str:
    """One command on one line: when, who, what, and how it went."""
    if each.error is not None:
        told = f"refused ({each.error.code}): {each.error.message}"
    else:
        told = "; ".join(_change(change.what, change.before, change.after) for change in each.changes)
    return f"{clock(each.at)}  {who(each.by):<24} {each.command} {each.target}  {told}".rstrip()


def who(actor: "Actor") -> str:
    """The narrowest name there is."""
    if actor.role == "gateway":
        return " ".join(filter(None, [f"key {actor.key}" if actor.key else "http", actor.address]))
    return "@".join(filter(None, [actor.user or actor.role, actor.node]))


def _change(what: str, before: Any, after: Any) -> str:
    if before is None or after is None:
        return f"{what} {'added' if before is None else 'removed'}"
    fields = [f"{name}: {_short(before.get(name))} → {_short(value)}" for name, value in after.items()]
    return f"{what} {', '.join(fields)}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"
