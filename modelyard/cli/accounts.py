"""`yard price` and `yard budget`: what models cost, and how much may be used."""

import argparse
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from modelyard.cli.arguments import Argument, Moment, convert, parse_decimal, parse_moment
from modelyard.cli.output import print_line, print_result, table
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.host.settings import load
from modelyard.usage_table import format_time
from schemas import subjects
from schemas.budgets import Action, BudgetList, StoredBudget
from schemas.errors import BadRequest
from schemas.prices import Method, Price, PricesAnswer, PutPrice, StoredPrices

_PRICE_SET = """
Valid from now on, or from a day on. Prices are for a million tokens.

  yard price set demo --input 0.15 --output 0.60 --cached 0.05
  yard price set demo --tier prompt=0-32768,input=1,output=2 --tier prompt=32769-,input=2,output=4
  yard price set demo --hourly 1.20
  yard price set demo --kwh 0.30
  yard price set '*' --free

`*` stands for every model without a price of its own.
"""
_BUDGET_SET = """
A budget limits all usage, or that of a key, of a model, or of a key and a model.

  yard budget set house --limit 20
  yard budget set team-a --limit 1000000 --unit tokens --period day --key 1f3c9ab0d2e4
  yard budget set guests --limit 50 --unit requests --period day --key anyone --warn-only

`anyone` stands for requests without a key.
"""
_RANGE = re.compile(r"(\d+)-(\d*)")
_AMOUNTS = {"input": "input", "output": "output", "cached": "cached_read", "cache_write": "cache_write"}
_SINCE = Argument(flag="--from", metavar="TIME", parse=parse_moment, help="only the one valid from then")
_PERIOD = {
    "since": Argument(metavar="TIME", parse=parse_moment, help="from then on: 24h, 2026-11-01, …"),
    "until": Argument(metavar="TIME", parse=parse_moment, help="before then"),
    "model": Argument(help="only this model"),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    add = verbs["price"].subverbs()
    command(add("list", "List the prices of all models."), subjects.PRICE_LIST, _show_prices)
    show = add("show", "Show every price of one model.")
    command(show, subjects.PRICE_GET, _show_price, positional=("model",))
    _add_price_set(add("set", "Give a model a price."))
    remove = add("rm", "Remove a price of a model, or all of them.")
    since = {"valid_from": _SINCE}
    command(
        remove,
        subjects.PRICE_DELETE,
        "The price of {0.model} is removed; past usage keeps its cost.",
        positional=("model",),
        fields=since,
    )
    reprice = add("reprice", "Recalculate the costs of a period with the present prices.")
    command(
        reprice,
        subjects.PRICE_REPRICE,
        "{0.records:,} records have another cost now: {0.after} in all, before {0.before}.",
        fields=_PERIOD,
    )
    add = verbs["budget"].subverbs()
    command(add("list", "List budgets, and how much of each is used."), subjects.BUDGET_LIST, _show_budgets)
    _add_budget_set(add("set", "Limit the usage of a day, a week or a month."))
    remove = add("rm", "Remove a budget.")
    name = {"budget": Argument(metavar="NAME", help="the name of the budget")}
    command(
        remove,
        subjects.BUDGET_DELETE,
        "The budget {0.budget} is removed.",
        positional=("budget",),
        fields=name,
    )


def _add_price_set(parser: VerbParser) -> None:
    parser.describe(_PRICE_SET)
    parser.add_argument("model", metavar="MODEL", help="its name or an alias, or '*'")
    for name in _AMOUNTS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse_decimal, metavar="PRICE")
    parser.add_argument(
        "--tier", action="append", type=parse_tier, default=[], metavar="prompt=A-B,input=PRICE,…"
    )
    parser.add_argument("--hourly", type=parse_decimal, metavar="PRICE", help="per hour of a loaded instance")
    parser.add_argument("--kwh", type=parse_decimal, metavar="PRICE", help="per kilowatt-hour of its devices")
    parser.add_argument("--free", action="store_true", help="costs nothing")
    parser.add_argument(
        "--from", dest="since", type=parse_moment, metavar="TIME", help="valid from then (default: now)"
    )
    parser.add_argument(
        "--retroactive", action="store_true", help="recalculate the costs of usage since then"
    )
    online(parser, _set_price)


def _add_budget_set(parser: VerbParser) -> None:
    parser.describe(_BUDGET_SET)
    fields = {
        "budget": Argument(metavar="NAME", help="the name of the budget"),
        "limit": Argument(metavar="NUMBER"),
        "model": Argument(help="only this model"),
        "warn_at": Argument(metavar="SHARE", parse=parse_share, help="share that warns: 80%% or 0.8"),
        "tz": Argument(metavar="ZONE", help="time zone of its days (default: YARD_TIME_ZONE)"),
    }
    parser.add_argument(
        "--warn-only", dest="action", action="store_const", const=Action.WARN.value, help="refuse no requests"
    )
    command(
        parser,
        subjects.BUDGET_PUT,
        "The budget {0.budget} is stored.",
        positional=("budget",),
        omit=("action",),
        fields=fields,
    )


def parse_share(text: str) -> Decimal:
    """`80%` or `0.8`."""
    return parse_decimal(text[:-1]) / 100 if text.endswith("%") else parse_decimal(text)


def parse_tier(text: str) -> dict[str, Any]:
    """The fields of a tier, from `prompt=0-32768,completion=0-,input=1,output=2`."""
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in ("prompt", "completion") and (match := _RANGE.fullmatch(value)):
            fields[f"min_{name}_tokens"] = int(match[1])
            fields[f"max_{name}_tokens"] = int(match[2]) if match[2] else None
        elif name in _AMOUNTS:
            fields[_AMOUNTS[name]] = parse_decimal(value)
        else:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not a part of a tier such as prompt=0-32768,input=1"
            )
    return fields


async def _set_price(yard: Client, arguments: argparse.Namespace) -> None:
    stored = await yard.accounts.put_price(
        PutPrice(model=arguments.model, price=_price(arguments), retroactive=arguments.retroactive)
    )
    more = f" {stored.repriced:,} records have another cost now." if arguments.retroactive else ""
    print_result(arguments, stored, f"{stored.model} has a new price.{more}")


def _price(arguments: argparse.Namespace) -> Price:
    flat = {
        field: getattr(arguments, name)
        for name, field in _AMOUNTS.items()
        if getattr(arguments, name) is not None
    }
    given = {
        Method.TOKENS: bool(flat or arguments.tier),
        Method.HOURLY: arguments.hourly is not None,
        Method.ENERGY: arguments.kwh is not None,
        Method.FREE: arguments.free,
    }
    if sum(given.values()) != 1 or (flat and arguments.tier):
        raise BadRequest("Give one price: --input and --output, or tiers, or --hourly, --kwh or --free.")
    since: Moment | None = arguments.since
    fields = {
        "method": next(method for method in given if given[method]),
        "valid_from": since.timestamp(None) if since else None,
        "tiers": (arguments.tier or [flat]) if given[Method.TOKENS] else (),
        "per_hour": arguments.hourly,
        "per_kwh": arguments.kwh,
    }
    return convert(fields, Price)


def _show_prices(answer: PricesAnswer) -> None:
    if not answer.prices:
        print_line("No model has a price; everything is free. `yard price set` gives one.")
        return
    rows = [
        (
            stored.model,
            format_price(stored.now, answer.currency) if stored.now else "none yet",
            str(len(stored.prices)),
        )
        for stored in answer.prices
    ]
    table(("MODEL", "PRICE NOW", ">PRICES"), rows)


def _show_price(stored: StoredPrices) -> None:
    tz = ZoneInfo(load().time_zone)
    rows = [
        (
            format_time(price.valid_from or 0.0, tz),
            "now" if price == stored.now else "",
            format_price(price, ""),
        )
        for price in stored.prices
    ]
    table(("VALID FROM", "", "PRICE"), rows)


def format_price(price: Price, currency: str) -> str:
    """A price in one line."""
    unit = f" {currency}" if currency else ""
    if price.per_hour is not None:
        return f"{price.per_hour}{unit} an hour loaded"
    if price.per_kwh is not None:
        return f"{price.per_kwh}{unit} a kWh"
    if not price.tiers:
        return "free"
    first = price.tiers[0]
    more = f", {len(price.tiers)} tiers" if len(price.tiers) > 1 else ""
    return f"{first.input}{unit} in, {first.output}{unit} out a million tokens{more}"


def _show_budgets(answer: BudgetList) -> None:
    if not answer.budgets:
        print_line("There are no budgets. `yard budget set` makes one.")
        return
    header = ("BUDGET", "OF", "PERIOD", ">USED", ">LIMIT", "UNIT", ">SHARE", "LEVEL", "ACTION")
    table(header, [_budget_row(stored, answer.currency) for stored in answer.budgets])


def _budget_row(stored: StoredBudget, currency: str) -> tuple[str, ...]:
    budget, state = stored.budget, stored.state
    scope = " ".join(part for part in (budget.key, budget.model) if part) or "everything"
    unit = currency if budget.unit == "money" else budget.unit.value
    used = ("-", "-", "-") if state is None else (state.used, f"{state.ratio:.0%}", state.level.value)
    return (
        *(budget.budget, scope, budget.period.value, used[0], f"{budget.limit:f}", unit),
        *(used[1], used[2], budget.action.value),
    )
