"""Arguments of verbs, derived from the fields of a record, and the values that people write for them."""

import argparse
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import inspect

from modelyard.cli.parser import COMMON_HELP, VerbParser
from modelyard.documents import default_of, field_docs
from modelyard.host import setting_values
from modelyard.host.settings import load
from schemas.errors import BadRequest

T = TypeVar("T")
Parse = Callable[[str], Any]

_DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+[smhdw])+")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i)?)?B?(?:/s)?")
_FIELD_HELP = COMMON_HELP | {
    "tz": "time zone (default: YARD_TIME_ZONE)",
    "since": "from then on: 24h, 2026-11-01, …",
    "until": "before then",
    "for_s": "for how long, like 2h",
    "reason": "the reason",
}
"""For fields that the contract leaves without a text."""
_MOMENTS = ("since", "until", "valid_from")
_METAVARS = {"n_ctx": "TOKENS", "tz": "ZONE", "for_s": "TIME", "limit_bytes_s": "SPEED"} | dict.fromkeys(
    _MOMENTS, "TIME"
)


class Argument(NamedTuple):
    """How an argument differs from what follows from its field's name and type."""

    flag: str | None = None
    metavar: str | None = None
    parse: Parse | None = None
    help: str | None = None
    required: bool = False
    """Though the contract has a default."""


def add_fields(
    parser: VerbParser,
    record: type,
    *,
    positional: Sequence[str] = (),
    omit: Container[str] = (),
    fields: Mapping[str, Argument] | None = None,
    add: Callable[..., argparse.Action] | None = None,
) -> None:
    """Add an argument for each field of `record`, nested records included, but for those in `omit`.

    A `revision` is never an argument. What is not given stays None and gets the contract's default in
    `read_record`. `add`: of a group.
    """
    info = {field.name: field for field in fields_of(record)}
    for name in (*positional, *(name for name in info if name not in positional)):
        field = info[name]
        kind = _without_none(field.type)
        if name == "revision" or name in omit:
            continue
        if isinstance(kind, inspect.StructType):
            add_fields(parser, kind.cls, omit=omit, fields=fields, add=add)
            continue
        given = (fields or {}).get(name, Argument())
        if name in positional:
            words: tuple[str, ...] = ()
            options: dict[str, Any] = {"metavar": given.metavar or name.upper()}
            options |= {"nargs": "?"} if not (field.required or given.required) else {}
            options |= {"type": given.parse or _parser_of(name, kind)}
        else:
            words, options = _flag(name, kind, given, default=field.default, required=field.required)
        action = (add or parser.add_argument)(*words or (name,), **options, help=given.help or " ")
        if given.help is None:
            repeatable = isinstance(kind, inspect.VarTupleType | inspect.DictType)
            parser.on_help.append(partial(_add_help, action, record, name, repeatable=repeatable))


def fields_of(record: type) -> tuple[inspect.Field, ...]:
    """The fields with their types, in the order of the contract."""
    kind = inspect.type_info(record)
    assert isinstance(kind, inspect.StructType)
    return kind.fields


def _flag(
    name: str, kind: inspect.Type, given: Argument, *, default: object, required: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    flag = given.flag or f"--{_flag_name(name, kind)}"
    if isinstance(kind, inspect.BoolType):
        action = "store_false" if default is True else "store_true"
        words = f"--no-{name}" if default is True else flag
        return (words,), {"dest": name, "action": action, "default": None}
    options: dict[str, Any] = {"dest": name, "required": required}
    item = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
    if isinstance(kind, inspect.VarTupleType | inspect.DictType):
        options["action"] = "append"
    if isinstance(item, inspect.EnumType):
        options["choices"] = [member.value for member in item.cls]
        options |= {"metavar": given.metavar} if given.metavar else {}
    else:
        derived = "NAME=VALUE" if isinstance(kind, inspect.DictType) else flag[2:].upper().replace("-", "_")
        options["metavar"] = given.metavar or _METAVARS.get(name, derived)
        options["type"] = given.parse or _parser_of(name, item)
    return (flag,), options


def _flag_name(name: str, kind: inspect.Type) -> str:
    """The field's name without its unit, `_` as `-`; of a list in the singular."""
    name = re.sub(r"^n_(?=ctx)|(_bytes)?_s$", "", name)
    if isinstance(kind, inspect.VarTupleType | inspect.DictType):
        name = name.removesuffix("es") if name.endswith("ses") else name.removesuffix("s")
    return name.replace("_", "-")


def _without_none(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.UnionType):
        return next(member for member in kind.types if not isinstance(member, inspect.NoneType))
    return kind


def _parser_of(name: str, kind: inspect.Type) -> Parse:
    if isinstance(kind, inspect.DictType):
        return parse_pair
    if name == "tz":
        return parse_time_zone
    if name.endswith("_bytes_s"):
        return parse_rate
    if isinstance(kind, inspect.FloatType):
        if name in _MOMENTS:
            return parse_moment
        return parse_duration if name.endswith("_s") else float
    return (
        int
        if isinstance(kind, inspect.IntType)
        else parse_decimal
        if isinstance(kind, inspect.DecimalType)
        else str
    )


def _add_help(action: argparse.Action, record: type, name: str, *, repeatable: bool) -> None:
    """The field's text in the contract, with the default that it or the field has."""
    text = field_docs(record).get(name) or _FIELD_HELP.get(name, "")
    text = text.partition("\n\n")[0].replace("\n", " ").rstrip(".")
    text = re.sub(r"[;.]? ?(?:None|Empty|default): (.+)$", r" (default: \1)", text).strip()
    text = text[:1].lower() + text[1:] if not text[1:2].isupper() else text
    field = next(field for field in msgspec.structs.fields(record) if field.name == name)
    default = default_of(field)
    if default not in (None, msgspec.NODEFAULT, (), {}, "", False, True) and "(default" not in text:
        text = f"{text} (default: {default})".strip()
    text += "; may be repeated" if repeatable else ""
    action.help = text.replace("%", "%%") or None


def given_fields(arguments: argparse.Namespace, record: type, *, omit: Container[str] = ()) -> dict[str, Any]:
    """What the command line gives for the fields of `record`, nested records included but for `omit`."""
    given: dict[str, Any] = {}
    for field in fields_of(record):
        kind, value = _without_none(field.type), getattr(arguments, field.name, None)
        if isinstance(kind, inspect.StructType) and value is None and field.name not in omit:
            value = given_fields(arguments, kind.cls) or None
        elif isinstance(kind, inspect.DictType) and value is not None:
            value = dict(value)
        elif isinstance(value, Moment):
            value = value.timestamp(getattr(arguments, "tz", None))
        if value is not None:
            given[field.name] = value
    return given


def read_record(
    arguments: argparse.Namespace, record: type[T], *, omit: Container[str] = (), **more: object
) -> T:
    """The record that a command line gives; BadRequest where it breaks the record's rules."""
    return convert({**given_fields(arguments, record, omit=omit), **more}, record)


def convert(fields: Mapping[str, object], record: type[T]) -> T:
    """A record of these fields; BadRequest where they break the record's rules."""
    try:
        return msgspec.convert(fields, record)
    except msgspec.ValidationError as error:
        raise BadRequest(f"This is not valid: {str(error).partition(' - at')[0]}.") from error


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `7d` or `1h30m`."""
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it like 30s, 10m, 2h or 7d")
    parts = re.findall(r"\d+[smhdw]", text)
    return float(sum(int(part[:-1]) * _DURATION_UNITS_S[part[-1]] for part in parts))


def parse_rate(text: str) -> int | None:
    """Bytes a second of `500kB`, `20M` or `1.5MiB/s`; None for `none`."""
    if text == "none":
        return None
    match = _RATE.fullmatch(text)
    power = "kMGT".find(match[2].replace("K", "k")) + 1 if match and match[2] else 0
    count = float(match[1]) * (1024 if match[3] else 1000) ** power if match else 0
    if count < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a speed; write it like 500kB, 20MB or 20MiB, or none"
        )
    return int(count)


def parse_decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def parse_pair(text: str) -> tuple[str, str]:
    """`node=a`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parse_time_zone(text: str) -> str:
    try:
        return setting_values.parse_time_zone(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}{error}".rstrip(".")) from None


class Moment(NamedTuple):
    """One of the two: a time before now, or a day and time."""

    ago_s: float | None
    at: datetime | None

    def timestamp(self, tz: str | None) -> float:
        """Unix seconds; a time without a zone is in `tz`, or else in the yard's zone."""
        if self.at is None:
            return time.time() - (self.ago_s or 0.0)
        zone = self.at.tzinfo or ZoneInfo(tz or load().time_zone)
        return self.at.replace(tzinfo=zone).timestamp()


def parse_moment(text: str) -> Moment:
    """`24h`, `2026-11-01` or `2026-11-01T08:00`."""
    try:
        return Moment(None, datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return Moment(parse_duration(text), None)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write 24h or 7d for so long ago, or a day like 2026-11-01"
        ) from None
