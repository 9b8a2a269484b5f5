"""`yard usage`, `yard report` and `yard storage`: what was used, and what is stored of it."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from modelyard.cli.arguments import Argument, add_fields, convert, given_fields, read_record
from modelyard.cli.output import print_json, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, listing, print_list, print_rows, table
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_duration, format_size
from modelyard.usage_table import RECORD_HEADER, format_time, record_row, report_table, write_csv
from schemas import subjects
from schemas.errors import BadRequest
from schemas.storage import StorageReport
from schemas.usage import Dimension, PutReport, UsageFilter, UsageQuery, UsageReport, UsageSums

_USAGE = """\
yard usage rebuild    read the event stream again and recalculate all sums; older records stay
yard usage forecast   the expected usage at the end of the period

Usage is counted on the first machine of a yard."""
_STORAGE = """\
yard storage orphans   usage of models that are no longer in the registry
yard storage rm MODEL  delete the usage of such a model for good
yard storage vacuum    apply the retention settings, and return free space to the disk"""
_COUNTS = {
    ">REQUESTS": "requests",
    ">FAILED": "failed",
    ">CANCELLED": "cancelled",
    ">PROMPT": "prompt_tokens",
    ">CACHED": "cached_tokens",
    ">ANSWER": "completion_tokens",
}
_LATENCY_HEADER = (">P50 MS", ">P99 MS", ">FIRST P50", ">FIRST P99")
_FILTER = {
    "since": Argument(help="24h, 7d, 2026-11-01, … (default: all there is)"),
    "period": Argument(help="since the start of this day, week or month"),
    "session": Argument(help="since the yard was started"),
    "tz": Argument(help="time zone (default: YARD_TIME_ZONE)"),
    **{name: Argument(help=f"only this {name}") for name in ("model", "key", "mode", "node", "lane")},
    "status": Argument(help="only this HTTP status"),
    "outcome": Argument(help="only this outcome"),
    "step": Argument(help="a row for every such time"),
    "latency": Argument(help="show how long answers took"),
}
_BOUNDS = ("since", "period", "session")
_REPORTS: dict[str, Column] = {
    "REPORT": "report.report",
    "BY": "report.query.by",
    "STEP": "report.query.step",
    "TITLE": "report.title",
}
_ORPHANS: dict[str, Column] = {
    "MODEL": "model",
    ">REQUESTS": lambda model: f"{model.requests:,}",
    ">LOADED": lambda model: format_duration(model.loaded_s),
    "PRICED": "priced",
}
_STORES: dict[str, Column] = {
    "STORE": "name",
    "KIND": "kind",
    ">MESSAGES": lambda store: f"{store.messages:,}",
    ">SIZE": lambda store: format_size(store.bytes),
    ">OLDEST": lambda store: None if store.oldest_at is None else format_age(store.oldest_at),
    ">AT MOST": lambda store: format_size(store.max_bytes),
    ">FOR": lambda store: None if store.max_age_s is None else format_duration(store.max_age_s),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    usage = verbs["usage"]
    usage.epilog = _USAGE
    usage.add_argument("what", nargs="?", choices=("rebuild", "forecast"), help=argparse.SUPPRESS)
    _add_query(usage)
    usage.flag("--csv", text="print CSV, for spreadsheets")
    usage.flag("--records", text="single records: JSON lines, or CSV")
    unit = {"unit": Argument(help="of a forecast (default: money)")}
    add_fields(usage, subjects.USAGE_FORECAST.payload, omit=("period", "tz", "model", "key"), fields=unit)
    older = {"discard_older": Argument(help="drop records that the stream no longer has in a rebuild")}
    add_fields(usage, subjects.USAGE_REBUILD.payload, fields=older)
    online(usage, _usage)
    _register_reports(verbs["report"])
    storage = verbs["storage"]
    storage.epilog = _STORAGE
    storage.add_argument("what", nargs="?", choices=("orphans", "rm", "vacuum"), help=argparse.SUPPRESS)
    storage.add_argument("model", nargs="?", help="delete the usage of this model")
    online(storage, _storage)


def _register_reports(parser: VerbParser) -> None:
    add = parser.subverbs()
    empty = "There are no reports. `yard report save` stores one."
    show = listing(empty, _REPORTS, "reports")
    command(add("list", "List stored queries."), subjects.REPORT_LIST, show)
    save = add("save", "Store a query; its arguments are those of `yard usage`.")
    add_fields(save, PutReport, positional=("report",), omit=("query",))
    _add_query(save)
    online(save, _save_report)
    run = add("run", "Run a stored query now.")
    run.add_argument("report")
    run.flag("--csv", text="print CSV, for spreadsheets")
    online(run, _run_report)
    command(add("rm", "Delete a stored query."), subjects.REPORT_DELETE, "The report {0.report} is deleted.")


def _add_query(parser: VerbParser) -> None:
    others = tuple(name for name in UsageQuery.__struct_fields__ if name not in _BOUNDS)
    add_fields(parser, UsageFilter, omit=("last_s", *others), fields=_FILTER, add=parser.exclusive())
    add_fields(parser, UsageQuery, omit=("last_s", "recent", "by", *_BOUNDS), fields=_FILTER)
    text = f"one or more of {', '.join(Dimension)}, comma separated (default: model); `none`: one sum"
    parser.add_argument("--by", type=_parse_dimensions, metavar="WHAT", help=text)


def _parse_dimensions(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    for name in names:
        if name not in tuple(Dimension) or names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(Dimension)}")
    return names


def _since(arguments: argparse.Namespace) -> dict[str, Any]:
    """A time before now stays relative: a stored query is run later."""
    ago_s = arguments.since.ago_s if arguments.since else None
    return {} if ago_s is None else {"since": None, "last_s": ago_s}


async def _usage(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.what == "rebuild":
        done = await yard.accounts.rebuild(read_record(arguments, subjects.USAGE_REBUILD.payload))
        discarded = f"{done.discarded:,} discarded, {done.kept:,} kept."
        sentence = f"Read {done.read:,} records, of which {done.added:,} were new; {discarded}"
        print_result(arguments, done, sentence)
    elif arguments.what == "forecast":
        await _forecast(yard, arguments)
    elif arguments.records:
        await _records(yard, arguments)
    else:
        query = read_record(arguments, UsageQuery, **_since(arguments))
        show_report(arguments, await yard.accounts.usage(query), query)


def show_report(arguments: argparse.Namespace, usage: UsageReport, query: UsageQuery) -> None:
    """Print a report as JSON, CSV or a table."""
    by, step = query.by, query.step is not None
    if arguments.json:
        print_json(usage)
    elif arguments.csv:
        sys.stdout.write(write_csv(report_table(usage, query)))
    elif not (shown := rows(usage, by, step=step)):
        print_line("No requests were made in that time.")
    else:
        groups = (*(["TIME"] if step else []), *(name.upper() for name in by)) or ("",)
        table((*groups, *_COUNTS, ">COST", *(_LATENCY_HEADER if query.latency else ())), shown)


def rows(usage: UsageReport, by: Sequence[str] = ("model",), *, step: bool = False) -> list[tuple[str, ...]]:
    """A row a group, and their total below when there are several."""
    cells = []
    for row in usage.rows:
        # A model that was only loaded, for free, has a row for programs only.
        if row.requests or row.cost != "0":
            at = [format_time(row.at, ZoneInfo(usage.tz))] if step and row.at is not None else []
            group = (*at, *(str(getattr(row, name) or "-") for name in by)) or ("all",)
            cells.append((*group, *_cells(row, usage.currency)))
    if len(cells) > 1:
        width = len(by) + step
        cells.append(("total", *[""] * (width - 1), *_cells(usage.total, usage.currency)))
    return cells


def _cells(sums: UsageSums, currency: str) -> tuple[str, ...]:
    counts = tuple(f"{getattr(sums, name):,}" for name in _COUNTS.values())
    cost = "-" if sums.cost == "0" else f"{sums.cost} {currency}"
    if sums.latency is None:
        return (*counts, cost)
    kinds = (sums.latency.duration, sums.latency.first_token)
    times = [time for kind in kinds for time in (kind.p50_ms, kind.p99_ms)]
    return (*counts, cost, *("-" if time is None else f"{time:,.0f}" for time in times))


async def _forecast(yard: Client, arguments: argparse.Namespace) -> None:
    query = read_record(arguments, subjects.USAGE_FORECAST.payload)
    forecast = await yard.accounts.forecast(query)
    sentence = (
        f"This {query.period}: {forecast.so_far:,.6g} {query.unit} so far, "
        f"about {forecast.expected:,.6g} at its end, "
        f"nine in ten times from {forecast.low:,.6g} to {forecast.high:,.6g}.\n"
        f"By {forecast.based_on_days} days of the past: {forecast.method}."
    )
    print_result(arguments, forecast, sentence)


async def _records(yard: Client, arguments: argparse.Namespace) -> None:
    # The currency is the same for every record.
    currency = (await yard.accounts.prices()).currency if arguments.csv else ""
    if arguments.csv:
        sys.stdout.write(write_csv([RECORD_HEADER]))
    query = read_record(arguments, subjects.USAGE_RECORDS.payload, **_since(arguments))
    async for record in yard.accounts.records(query):
        if arguments.csv:
            sys.stdout.write(write_csv([record_row(record, currency)]))
        else:
            print_json(record)


async def _save_report(yard: Client, arguments: argparse.Namespace) -> None:
    query = {**given_fields(arguments, UsageQuery), **_since(arguments)}
    report = {"report": arguments.report, "title": arguments.title or ""}
    stored = await yard.accounts.put_report(convert({**report, "query": query}, PutReport))
    name = stored.report
    print_result(arguments, stored, f"The report {name} is stored; `yard report run {name}` runs it.")


async def _run_report(yard: Client, arguments: argparse.Namespace) -> None:
    stored = await yard.accounts.report(report=arguments.report)
    show_report(arguments, await yard.accounts.run_report(report=arguments.report), stored.report.query)


async def _storage(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.what == "rm":
        if arguments.model is None:
            raise BadRequest("Name the model whose usage to delete: yard storage rm MODEL.")
        removed = await yard.accounts.remove_usage(model=arguments.model)
        sentence = f"The usage of {removed.model} is deleted: {removed.requests:,} records."
        print_result(arguments, removed, sentence)
    elif arguments.what == "vacuum":
        done = await yard.accounts.vacuum()
        sizes = f"{format_size(done.before_bytes)} before, {format_size(done.after_bytes)} now"
        print_result(arguments, done, f"{sizes}; {done.requests_removed:,} old records were removed.")
    else:
        _show_storage(await yard.accounts.storage(), arguments)


def _show_storage(stored: StorageReport, arguments: argparse.Namespace) -> None:
    orphans = [model for model in stored.models if model.orphan]
    if arguments.what == "orphans":
        empty = "Every model with stored usage is in the registry."
        print_list(orphans, _ORPHANS, empty=empty, arguments=arguments)
    elif arguments.json:
        print_json(stored)
    else:
        _show_stores(stored)
        if orphans:
            usage = f"Usage of {len(orphans)} models outside the registry is stored"
            print_line(f"{usage}; see `yard storage orphans`.")


def _show_stores(stored: StorageReport) -> None:
    size, free = format_size(stored.database.bytes), format_size(stored.database.free_bytes)
    print_line(f"{stored.database.path} takes {size}, {free} of it free.")
    print_rows(_STORES, stored.stores)
    for disk in stored.disks:
        when = "does not fill up" if disk.days is None else f"is full in about {disk.days:.0f} days"
        free = format_size(disk.free_bytes)
        print_line(f"{disk.node}: the disk of {disk.disk} has {free} free and {when}.")
