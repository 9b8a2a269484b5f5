"""The arguments by which a command line asks about usage, and the question they make."""

import argparse
import time
from typing import TYPE_CHECKING, Any

from modelyard.cli.times import moment, time_zone

if TYPE_CHECKING:
    from schemas.usage import RecordsQuery, UsageQuery

DIMENSIONS = ("model", "key", "mode", "node", "lane", "status", "outcome")
STEPS = ("minute", "hour", "day", "week", "month")
PERIODS = ("day", "week", "month")


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Which requests."""
    bounds = parser.add_mutually_exclusive_group()
    bounds.add_argument(
        "--since", type=moment, metavar="TIME", help="24h, 7d, 2026-11-01, … (default: all there is)"
    )
    bounds.add_argument("--period", choices=PERIODS, help="since the start of this day, week or month")
    bounds.add_argument("--session", action="store_true", help="since the yard was started")
    parser.add_argument("--until", type=moment, metavar="TIME", help="before then")
    parser.add_argument("--tz", type=time_zone, metavar="ZONE", help="time zone (default: YARD_TIME_ZONE)")
    for name in ("model", "key", "mode", "node"):
        parser.add_argument(f"--{name}", metavar=name.upper(), help=f"only this {name}")
    parser.add_argument("--lane", choices=("interactive", "batch"), help="only this lane")
    parser.add_argument("--status", type=int, metavar="STATUS", help="only this HTTP status")
    parser.add_argument("--outcome", choices=("ok", "failed", "cancelled"), help="only these")


def add_grouping(parser: argparse.ArgumentParser) -> None:
    """What to tell apart."""
    parser.add_argument(
        "--by",
        type=_dimensions,
        default=("model",),
        metavar="WHAT",
        help=f"one or more of {', '.join(DIMENSIONS)}, comma separated (default: model); `none`: one sum",
    )
    parser.add_argument("--step", choices=STEPS, help="a row for every such time")
    parser.add_argument("--latency", action="store_true", help="how long answers took")


def _dimensions(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    for name in names:
        if name not in DIMENSIONS or names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(DIMENSIONS)}")
    return names


def usage_query(arguments: argparse.Namespace) -> "UsageQuery":
    """The question of a command line with both groups of arguments."""
    from schemas.usage import Dimension, UsageQuery, UsageStep

    return UsageQuery(
        **_filter(arguments),
        by=tuple(map(Dimension, arguments.by)),
        step=UsageStep(arguments.step) if arguments.step else None,
        latency=arguments.latency,
    )


def records_query(arguments: argparse.Namespace) -> "RecordsQuery":
    """The same for single records."""
    from schemas.usage import RecordsQuery

    return RecordsQuery(**_filter(arguments))


def _filter(arguments: argparse.Namespace) -> dict[str, Any]:
    from schemas.requests import Lane, Outcome
    from schemas.usage import Period

    given = {name: getattr(arguments, name) for name in ("tz", "model", "key", "mode", "node", "status")}
    now, since, until = time.time(), arguments.since, arguments.until
    ago_s = since.ago_s if since else None
    return {
        **given,
        "last_s": ago_s,
        "since": since.timestamp(arguments.tz, now) if since and ago_s is None else None,
        "until": until.timestamp(arguments.tz, now) if until else None,
        "period": Period(arguments.period) if arguments.period else None,
        "session": arguments.session,
        "lane": Lane(arguments.lane) if arguments.lane else None,
        "outcome": Outcome(arguments.outcome) if arguments.outcome else None,
    }
