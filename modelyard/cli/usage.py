"""`yard usage`."""

import argparse
import sys
from typing import TYPE_CHECKING

from modelyard.cli.asking import PERIODS, add_filter, add_grouping, records_query, usage_query
from modelyard.cli.output import emit, say, table
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelyard.client import Client
    from schemas.usage import UsageReport, UsageSums

_COUNTS = ("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens")
_HEADER = (">REQUESTS", ">FAILED", ">CANCELLED", ">PROMPT", ">CACHED", ">ANSWER", ">COST")
_LATENCY = (">P50 MS", ">P99 MS", ">FIRST P50", ">FIRST P99")
_EPILOG = """\
yard usage rebuild    read the event stream again and sum everything up anew; older records stay
yard usage forecast   what the period will have seen at its end

Usage is counted on the first machine of a yard."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("usage", "Sum up requests, tokens and cost.", _usage)
    parser.epilog = _EPILOG
    parser.add_argument("what", nargs="?", choices=("rebuild", "forecast"), help=argparse.SUPPRESS)
    add_filter(parser)
    add_grouping(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV, for spreadsheets")
    parser.add_argument("--records", action="store_true", help="single records: JSON lines, or CSV")
    parser.add_argument(
        "--unit", choices=("money", "tokens", "requests"), default="money", help="of a forecast"
    )
    parser.add_argument(
        "--discard-older", action="store_true", help="a rebuild keeps nothing that the stream lost"
    )


async def _usage(yard: "Client", arguments: argparse.Namespace) -> None:
    if arguments.what == "rebuild":
        await _rebuild(yard, arguments)
    elif arguments.what == "forecast":
        await _forecast(yard, arguments)
    elif arguments.records:
        await _records(yard, arguments)
    else:
        query = usage_query(arguments)
        show(arguments, await yard.accounts.usage(query), query.by, step=query.step is not None)


def show(arguments: argparse.Namespace, report: "UsageReport", by: "Sequence[str]", *, step: bool) -> None:
    """Print a report as asked for: JSON, CSV or a table."""
    from modelyard.usage_table import report_header, report_rows, write_csv
    from schemas.usage import Dimension

    dimensions = tuple(map(Dimension, by))
    latency = report.total.latency is not None
    if arguments.json:
        emit(report)
    elif arguments.csv:
        header = report_header(dimensions, step=step, latency=latency)
        sys.stdout.write(write_csv([header, *report_rows(report, dimensions, step=step)]))
    elif not (shown := rows(report, by, step=step)):
        say("No requests were made in that time.")
    else:
        named = (*(["TIME"] if step else []), *(name.upper() for name in dimensions)) or ("",)
        table((*named, *_HEADER, *(_LATENCY if latency else ())), shown)


def rows(
    report: "UsageReport", by: "Sequence[str]" = ("model",), *, step: bool = False
) -> list[tuple[str, ...]]:
    """A row a group, and their sum below when there are several."""
    from zoneinfo import ZoneInfo

    from modelyard.usage_table import format_time

    found = []
    for row in report.rows:
        if not row.requests and row.cost == "0":
            # It was only loaded, for nothing; programs are told that too.
            continue
        at = [format_time(row.at, ZoneInfo(report.tz))] if step and row.at is not None else []
        groups = [str(getattr(row, name) or "-") for name in by]
        found.append(((*at, *groups) or ("all",), row))
    cells = [(*group, *_cells(row, report.currency)) for group, row in found]
    if len(cells) > 1:
        width = len(by) + step
        cells.append(("total", *[""] * (width - 1), *_cells(report.total, report.currency)))
    return cells


def _cells(sums: "UsageSums", currency: str) -> tuple[str, ...]:
    counts = tuple(f"{getattr(sums, name):,}" for name in _COUNTS)
    cost = "-" if sums.cost == "0" else f"{sums.cost} {currency}"
    if sums.latency is None:
        return (*counts, cost)
    kinds = (sums.latency.duration, sums.latency.first_token)
    times = [time for kind in kinds for time in (kind.p50_ms, kind.p99_ms)]
    return (*counts, cost, *("-" if time is None else f"{time:,.0f}" for time in times))


async def _rebuild(yard: "Client", arguments: argparse.Namespace) -> None:
    done = await yard.accounts.rebuild(discard_older=arguments.discard_older)
    if arguments.json:
        emit(done)
    else:
        say(
            f"Read {done.read:,} records, of which {done.added:,} were new; "
            f"{done.discarded:,} discarded, {done.kept:,} kept."
        )


async def _forecast(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.usage import ForecastQuery, Period, UsageUnit

    query = ForecastQuery(
        unit=UsageUnit(arguments.unit),
        period=Period(arguments.period or PERIODS[-1]),
        tz=arguments.tz,
        model=arguments.model,
        key=arguments.key,
    )
    forecast = await yard.accounts.forecast(query)
    if arguments.json:
        emit(forecast)
        return
    spelled = [f"{value:,.6g}" for value in (forecast.so_far, forecast.expected, forecast.low, forecast.high)]
    say(
        f"This {query.period}: {spelled[0]} {query.unit} so far, about {spelled[1]} at its end, "
        f"nine in ten times from {spelled[2]} to {spelled[3]}."
    )
    say(f"By {forecast.based_on_days} days of the past: {forecast.method}.")


async def _records(yard: "Client", arguments: argparse.Namespace) -> None:
    from modelyard.usage_table import RECORD_HEADER, record_row, write_csv

    # The currency is the same for every record; a report of nothing tells it.
    currency = (await yard.accounts.prices()).currency if arguments.csv else ""
    if arguments.csv:
        sys.stdout.write(write_csv([RECORD_HEADER]))
    async for record in yard.accounts.records(records_query(arguments)):
        if arguments.csv:
            sys.stdout.write(write_csv([record_row(record, currency)]))
        else:
            emit(record)
