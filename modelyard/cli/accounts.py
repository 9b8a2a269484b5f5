"""`yard price` and `yard budget`: what models cost, and how much may be used."""

import argparse
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from modelyard.cli.arguments import Argument, Moment, add_fields, convert, parse_decimal, read_record
from modelyard.cli.output import print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, print_list, print_rows
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.host.settings import load
from modelyard.usage_table import format_time
from schemas import subjects
from schemas.budgets import BudgetAction, BudgetList, StoredBudget
from schemas.errors import BadRequest
from schemas.prices import Price, PricesReply, PricingMethod, PutPrice, StoredPrices

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


def register(verbs: Mapping[str, VerbParser]) -> None:
    add = verbs["price"].subverbs()
    command(add("list", "List the prices of all models."), subjects.PRICE_LIST, _show_prices)
    command(add("show", "Show every price of one model."), subjects.PRICE_GET, _show_price)
    _add_price_set(add("set", "Give a model a price."))
    command(
        add("rm", "Remove a price of a model, or all of them."),
        subjects.PRICE_DELETE,
        "The price of {0.model} is removed; past usage keeps its cost.",
        fields={"valid_from": Argument(flag="--from", help="only the one valid from then")},
    )
    command(
        add("reprice", "Recalculate the costs of a period with the present prices."),
        subjects.PRICE_REPRICE,
        "{0.records:,} records have another cost now: {0.after} in all, before {0.before}.",
        positional=(),
        fields={"model": Argument(help="only this model")},
    )
    add = verbs["budget"].subverbs()
    command(add("list", "List budgets, and how much of each is used."), subjects.BUDGET_LIST, _show_budgets)
    _add_budget_set(add("set", "Limit the usage of a day, a week or a month."))
    command(add("rm", "Remove a budget."), subjects.BUDGET_DELETE, "The budget {0.budget} is removed.")


def _add_price_set(parser: VerbParser) -> None:
    parser.describe(_PRICE_SET)
    parser.add_argument("model", help="its name or an alias, or '*'")
    price = partial(parser.add_argument, type=parse_decimal, metavar="PRICE")
    for name in _AMOUNTS:
        price(f"--{name.replace('_', '-')}")
    tier = "prompt=A-B,input=PRICE,…"
    parser.add_argument("--tier", action="append", type=parse_tier, default=[], metavar=tier)
    price("--hourly", help="per hour of a loaded instance")
    price("--kwh", help="per kilowatt-hour of its devices")
    parser.flag("--free", text="costs nothing")
    since = {"valid_from": Argument(flag="--from", help="valid from then (default: now)")}
    add_fields(parser, Price, omit=("method", "tiers", "per_hour", "per_kwh"), fields=since)
    retroactive = {"retroactive": Argument(help="recalculate the costs of usage since then")}
    add_fields(parser, PutPrice, omit=("model", "price"), fields=retroactive)
    online(parser, _set_price)


def _add_budget_set(parser: VerbParser) -> None:
    parser.describe(_BUDGET_SET)
    refuse = {"dest": "action", "action": "store_const", "const": BudgetAction.WARN.value}
    parser.add_argument("--warn-only", **refuse, help="refuse no requests")
    fields = {
        "limit": Argument(metavar="NUMBER"),
        "model": Argument(help="only this model"),
        "warn_at": Argument(metavar="SHARE", parse=parse_share, help="share that warns: 80%% or 0.8"),
    }
    command(parser, subjects.BUDGET_PUT, "The budget {0.budget} is stored.", omit=("action",), fields=fields)


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
            example = "prompt=0-32768,input=1"
            raise argparse.ArgumentTypeError(f"{part!r} is not a part of a tier such as {example}")
    return fields


async def _set_price(yard: Client, arguments: argparse.Namespace) -> None:
    stored = await yard.accounts.put_price(read_record(arguments, PutPrice, price=_price(arguments)))
    more = f" {stored.repriced:,} records have another cost now." if arguments.retroactive else ""
    print_result(arguments, stored, f"{stored.model} has a new price.{more}")


def _price(arguments: argparse.Namespace) -> Price:
    amounts = {field: getattr(arguments, name) for name, field in _AMOUNTS.items()}
    flat = {field: amount for field, amount in amounts.items() if amount is not None}
    given = {
        PricingMethod.TOKENS: bool(flat or arguments.tier),
        PricingMethod.HOURLY: arguments.hourly is not None,
        PricingMethod.ENERGY: arguments.kwh is not None,
        PricingMethod.FREE: arguments.free,
    }
    if sum(given.values()) != 1 or (flat and arguments.tier):
        raise BadRequest("Give one price: --input and --output, or tiers, or --hourly, --kwh or --free.")
    since: Moment | None = arguments.valid_from
    fields = {
        "method": next(method for method in given if given[method]),
        "valid_from": since.timestamp(None) if since else None,
        "tiers": (arguments.tier or [flat]) if given[PricingMethod.TOKENS] else (),
        "per_hour": arguments.hourly,
        "per_kwh": arguments.kwh,
    }
    return convert(fields, Price)


def _show_prices(answer: PricesReply) -> None:
    def now(stored: StoredPrices) -> str:
        return format_price(stored.now, answer.currency) if stored.now else "none yet"

    empty = "No model has a price; everything is free. `yard price set` gives one."
    columns: dict[str, Column] = {
        "MODEL": "model",
        "PRICE NOW": now,
        ">PRICES": lambda stored: len(stored.prices),
    }
    print_list(answer.prices, columns, empty=empty)


def _show_price(stored: StoredPrices) -> None:
    tz = ZoneInfo(load().time_zone)
    columns: dict[str, Column] = {
        "VALID FROM": lambda price: format_time(price.valid_from or 0.0, tz),
        "": lambda price: "now" if price == stored.now else "",
        "PRICE": lambda price: format_price(price, ""),
    }
    print_rows(columns, stored.prices)


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
    columns: dict[str, Column] = {
        "BUDGET": "budget.budget",
        "OF": _scope,
        "PERIOD": "budget.period",
        ">USED": lambda stored: stored.state and stored.state.used,
        ">LIMIT": lambda stored: f"{stored.budget.limit:f}",
        "UNIT": lambda stored: answer.currency if stored.budget.unit == "money" else stored.budget.unit,
        ">SHARE": lambda stored: stored.state and f"{stored.state.ratio:.0%}",
        "LEVEL": lambda stored: stored.state and stored.state.level,
        "ACTION": "budget.action",
    }
    print_list(answer.budgets, columns, empty="There are no budgets. `yard budget set` makes one.")


def _scope(stored: StoredBudget) -> str:
    return " ".join(filter(None, (stored.budget.key, stored.budget.model))) or "everything"
