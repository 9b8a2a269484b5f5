"""`yard report`: questions about usage that are kept under a name."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.asking import add_filter, add_grouping, usage_query
from modelyard.cli.output import emit, say, table
from modelyard.cli.usage import show
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client


def register(verbs: Verbs) -> None:
    group = verbs.group("report", "Questions about usage, kept under a name.")
    group.add("list", "Every kept question.", _list)
    save = group.add("save", "Keep a question; its arguments are those of `yard usage`.", _save)
    save.add_argument("report", metavar="NAME")
    save.add_argument("--title", default="", metavar="TEXT")
    add_filter(save)
    add_grouping(save)
    run = group.add("run", "Ask a kept question now.", _run)
    run.add_argument("report", metavar="NAME")
    run.add_argument("--csv", action="store_true", help="print CSV, for spreadsheets")
    group.add("rm", "Forget a question.", _remove).add_argument("report", metavar="NAME")


async def _save(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.usage import PutReport

    order = PutReport(report=arguments.report, title=arguments.title, query=usage_query(arguments))
    stored = await yard.accounts.put_report(order)
    if arguments.json:
        emit(stored)
    else:
        say(f"The report {stored.report} is kept; `yard report run {stored.report}` asks it.")


async def _list(yard: "Client", arguments: argparse.Namespace) -> None:
    answer = await yard.accounts.reports()
    if arguments.json:
        emit(answer)
    elif not answer.reports:
        say("No reports are kept. `yard report save` keeps one.")
    else:
        rows = [
            (
                each.report.report,
                ", ".join(each.report.query.by),
                each.report.query.step or "-",
                each.report.title,
            )
            for each in answer.reports
        ]
        table(("REPORT", "BY", "STEP", "TITLE"), rows)


async def _run(yard: "Client", arguments: argparse.Namespace) -> None:
    query = (await yard.accounts.report(arguments.report)).report.query
    show(arguments, await yard.accounts.run_report(arguments.report), query.by, step=query.step is not None)


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.accounts.delete_report(arguments.report)
    if arguments.json:
        emit(stored)
    else:
        say(f"The report {stored.report} is forgotten.")
