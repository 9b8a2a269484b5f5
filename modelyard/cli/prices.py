"""`yard price`: what models cost."""

import argparse
import re
import time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.times import Moment, moment
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.prices import Price

_SET = """Give a model a price, from now on or from a day on. Prices are for a million tokens.

  yard price set demo --input 0.15 --output 0.60 --cached 0.05
  yard price set demo --tier prompt=0-32768,input=1,output=2 --tier prompt=32769-,input=2,output=4
  yard price set demo --hourly 1.20
  yard price set demo --kwh 0.30
  yard price set '*' --free

`*` stands for every model that has no price of its own."""
_RANGE = re.compile(r"(\d+)-(\d*)")
_AMOUNTS = {"input": "input", "output": "output", "cached": "cached_read", "cache_write": "cache_write"}


def register(verbs: Verbs) -> None:
    group = verbs.group("price", "What models cost.")
    group.add("list", "The prices of all models.", _list)
    group.add("show", "Every price of one model.", _show).add_argument("model", metavar="MODEL")
    _register_set(group)
    remove = group.add("rm", "Take a price of a model away, or all of them.", _remove)
    remove.add_argument("model", metavar="MODEL")
    remove.add_argument(
        "--from", dest="since", type=moment, metavar="TIME", help="only the one valid from then"
    )
    again = group.add("reprice", "Count the costs of a period anew, with the prices there are now.", _reprice)
    again.add_argument("--since", type=moment, required=True, metavar="TIME")
    again.add_argument("--until", type=moment, metavar="TIME")
    again.add_argument("--model", metavar="MODEL", help="only this model")


def _register_set(group: Verbs) -> None:
    parser = group.add("set", "Give a model a price.", _set)
    parser.description = _SET
    parser.add_argument("model", metavar="MODEL", help="its name or an alias, or '*'")
    for name in _AMOUNTS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=amount, metavar="PRICE")
    parser.add_argument("--tier", action="append", type=tier, default=[], metavar="prompt=A-B,input=PRICE,…")
    parser.add_argument("--hourly", type=amount, metavar="PRICE", help="an hour that an instance is loaded")
    parser.add_argument("--kwh", type=amount, metavar="PRICE", help="a kilowatt-hour that its devices draw")
    parser.add_argument("--free", action="store_true", help="costs nothing")
    parser.add_argument(
        "--from", dest="since", type=moment, metavar="TIME", help="valid from then (default: now)"
    )
    parser.add_argument("--retroactive", action="store_true", help="count anew what was used since then")


def amount(text: str) -> Decimal:
    """A decimal number; an argparse error if it is none."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price") from None


def tier(text: str) -> dict[str, Any]:
    """`prompt=0-32768,completion=0-,input=1,output=2` as a tier's fields; an argparse error if it is none."""
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in ("prompt", "completion") and (match := _RANGE.fullmatch(value)):
            fields[f"min_{name}_tokens"] = int(match[1])
            fields[f"max_{name}_tokens"] = int(match[2]) if match[2] else None
        elif name in _AMOUNTS:
            fields[_AMOUNTS[name]] = amount(value)
        else:
            raise argparse.ArgumentTypeError(f"{part!r} is no part of a tier such as prompt=0-32768,input=1")
    return fields


async def _set(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.prices import PutPrice

    order = PutPrice(model=arguments.model, price=_price(arguments), retroactive=arguments.retroactive)
    stored = await yard.accounts.put_price(order)
    if arguments.json:
        emit(stored)
    else:
        again = f" {stored.repriced:,} records have another cost now." if arguments.retroactive else ""
        say(f"{stored.model} has a new price.{again}")


def _price(arguments: argparse.Namespace) -> "Price":
    from schemas.errors import BadRequest
    from schemas.prices import Method, Price, Tier

    flat = {
        _AMOUNTS[name]: getattr(arguments, name) for name in _AMOUNTS if getattr(arguments, name) is not None
    }
    ways = {
        Method.TOKENS: bool(flat or arguments.tier),
        Method.HOURLY: arguments.hourly is not None,
        Method.ENERGY: arguments.kwh is not None,
        Method.FREE: arguments.free,
    }
    if sum(ways.values()) != 1 or (flat and arguments.tier):
        raise BadRequest("Give one price: --input and --output, or tiers, or --hourly, --kwh or --free.")
    method = next(method for method, given in ways.items() if given)
    try:
        return Price(
            method=method,
            valid_from=_at(arguments.since),
            tiers=tuple(Tier(**each) for each in (arguments.tier or [flat]))
            if method is Method.TOKENS
            else (),
            per_hour=arguments.hourly,
            per_kwh=arguments.kwh,
        )
    except ValueError as error:
        raise BadRequest(f"This is no price: {error}.") from error


def _at(since: Moment | None) -> float | None:
    return None if since is None else since.timestamp(None, time.time())


async def _list(yard: "Client", arguments: argparse.Namespace) -> None:
    answer = await yard.accounts.prices()
    if arguments.json:
        emit(answer)
    elif not answer.prices:
        say("No model has a price; everything is free. `yard price set` gives one.")
    else:
        rows = [
            (each.model, spell(each.now, answer.currency) if each.now else "none yet", str(len(each.prices)))
            for each in answer.prices
        ]
        table(("MODEL", "PRICE NOW", ">PRICES"), rows)


async def _show(yard: "Client", arguments: argparse.Namespace) -> None:
    from zoneinfo import ZoneInfo

    from modelyard.host.settings import load
    from modelyard.usage_table import format_time

    stored = await yard.accounts.price(arguments.model)
    if arguments.json:
        emit(stored)
        return
    tz = ZoneInfo(load().time_zone)
    rows = [
        (format_time(price.valid_from or 0.0, tz), "now" if price == stored.now else "", spell(price, ""))
        for price in stored.prices
    ]
    table(("VALID FROM", "", "PRICE"), rows)


def spell(price: "Price", currency: str) -> str:
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


async def _remove(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.prices import DeletePrice

    stored = await yard.accounts.delete_price(
        DeletePrice(model=arguments.model, valid_from=_at(arguments.since))
    )
    if arguments.json:
        emit(stored)
    else:
        say(f"The price of {stored.model} is gone; what was counted keeps its cost.")


async def _reprice(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.prices import Reprice

    since = _at(arguments.since)
    order = Reprice(since=since or 0.0, until=_at(arguments.until), model=arguments.model)
    done = await yard.accounts.reprice(order)
    if arguments.json:
        emit(done)
    else:
        say(f"{done.records:,} records have another cost now: {done.after} in all, before {done.before}.")
