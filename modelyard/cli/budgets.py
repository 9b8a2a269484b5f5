"""`yard budget`: how much may be used."""

import argparse
from decimal import Decimal
from typing import TYPE_CHECKING

from modelyard.cli.asking import PERIODS
from modelyard.cli.output import emit, say, table
from modelyard.cli.prices import amount
from modelyard.cli.times import time_zone
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.budgets import StoredBudget

_SET = """Say how much may be used in a day, a week or a month: of all, by a key, of a model, or of both.

  yard budget set house --limit 20
  yard budget set team-a --limit 1000000 --unit tokens --period day --key 1f3c9ab0d2e4
  yard budget set guests --limit 50 --unit requests --period day --key anyone --warn-only

Who makes requests without a key is `anyone`."""


def register(verbs: Verbs) -> None:
    group = verbs.group("budget", "How much may be used.")
    group.add("list", "Every budget, and how much of it is used.", _list)
    parser = group.add("set", "Say how much may be used.", _set)
    parser.description = _SET
    parser.add_argument("budget", metavar="NAME")
    parser.add_argument("--limit", type=amount, required=True, metavar="NUMBER")
    parser.add_argument("--unit", choices=("money", "tokens", "requests"), default="money")
    parser.add_argument("--period", choices=PERIODS, default="month")
    parser.add_argument("--key", metavar="KEY", help="id of an API key, or anyone")
    parser.add_argument("--model", metavar="MODEL")
    parser.add_argument("--warn-at", type=_share, default=Decimal("0.8"), metavar="SHARE", help="80%% or 0.8")
    parser.add_argument("--warn-only", action="store_true", help="refuse nobody")
    parser.add_argument("--tz", type=time_zone, metavar="ZONE", help="where days begin")
    group.add("rm", "Take a budget away.", _remove).add_argument("budget", metavar="NAME")


def _share(text: str) -> Decimal:
    return amount(text[:-1]) / 100 if text.endswith("%") else amount(text)


async def _set(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.budgets import Action, PutBudget
    from schemas.errors import BadRequest
    from schemas.usage import Period, UsageUnit

    try:
        order = PutBudget(
            budget=arguments.budget,
            limit=arguments.limit,
            unit=UsageUnit(arguments.unit),
            period=Period(arguments.period),
            key=arguments.key,
            model=arguments.model,
            action=Action.WARN if arguments.warn_only else Action.REFUSE,
            warn_at=arguments.warn_at,
            tz=arguments.tz,
        )
    except ValueError as error:
        raise BadRequest(f"This is no budget: {error}.") from error
    stored = await yard.accounts.put_budget(order)
    if arguments.json:
        emit(stored)
    else:
        say(f"The budget {stored.budget} is kept.")


async def _list(yard: "Client", arguments: argparse.Namespace) -> None:
    answer = await yard.accounts.budgets()
    if arguments.json:
        emit(answer)
    elif not answer.budgets:
        say("There are no budgets. `yard budget set` makes one.")
    else:
        header = ("BUDGET", "OF", "PERIOD", ">USED", ">LIMIT", "UNIT", ">SHARE", "LEVEL", "ACTION")
        table(header, [_row(each, answer.currency) for each in answer.budgets])


def _row(stored: "StoredBudget", currency: str) -> tuple[str, ...]:
    budget, state = stored.budget, stored.state
    of = " ".join(part for part in (budget.key, budget.model) if part) or "everything"
    unit = currency if budget.unit == "money" else budget.unit.value
    used = ("-", "-", "-") if state is None else (state.used, f"{state.ratio:.0%}", state.level.value)
    return (
        *(budget.budget, of, budget.period.value, used[0], f"{budget.limit:f}", unit),
        *(used[1], used[2], budget.action.value),
    )


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    stored = await yard.accounts.delete_budget(arguments.budget)
    if arguments.json:
        emit(stored)
    else:
        say(f"The budget {stored.budget} is gone.")
