"""Values of settings as text, in both directions. A ValueError completes the sentence `NAME=VALUE …`."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

T = TypeVar("T")

MAX_COUNT = 64
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class ValueKind(NamedTuple, Generic[T]):
    """The two directions between a variable's text and a setting's value."""

    parse: Callable[[str], T]
    write: Callable[[T], str] = str


def parse_home(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(" is a file; it must be a folder.")
    return path.absolute()


def parse_stores(text: str) -> dict[str, Path]:
    """Folders by name, from `ssd=/models,disk=/srv/models`."""
    stores: dict[str, Path] = {}
    for part in _parts(text):
        match = re.fullmatch(r"([A-Za-z0-9_-]{1,64})=(.+)", part)
        path = Path(match[2].strip()).expanduser() if match else Path()
        if match is None or not path.is_absolute():
            raise ValueError(f": {part!r} does not look like name=/folder.")
        if path.exists() and not path.is_dir():
            raise ValueError(f": {path} is not a folder.")
        if match[1] in stores:
            raise ValueError(f": two stores have the name {match[1]}.")
        stores[match[1]] = path
    real = {name: path.resolve() for name, path in stores.items()}
    for name, path in real.items():
        outer = next((other for other in real if other != name and path.is_relative_to(real[other])), None)
        if outer is not None:
            raise ValueError(f": {name} is inside {outer}; stores must not contain each other.")
    return stores


def parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(" is not a port; give a number from 0 to 65535.")
    return int(text)


def parse_memory_limits(text: str) -> dict[str, int]:
    """Bytes by device, from `cpu=8GiB,GPU-5a1c=20GiB`."""
    limits = {}
    for part in _parts(text):
        match = re.fullmatch(r"([A-Za-z0-9_-]+)=(\d+)\s*([KMGT]iB)?", part)
        if match is None:
            raise ValueError(f": {part!r} does not look like cpu=8GiB.")
        limits[match[1]] = int(match[2]) * _UNITS[match[3] or ""]
    return limits


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", text)
    if match is None:
        raise ValueError(" is not a number of bytes; it looks like 20MiB.")
    return int(match[1]) * _UNITS[match[2] or ""]


def write_size(count: int | None) -> str:
    """In the largest unit of which it is a whole number: `512MiB`."""
    unit = max((unit for unit, size in _UNITS.items() if not (count or 0) % size), key=_UNITS.__getitem__)
    return f"{count // _UNITS[unit]}{unit}" if count else "0"


def parse_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_COUNT:
        raise ValueError(f" is not a number from 1 to {MAX_COUNT}.")
    return int(text)


def parse_number(unit: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f" is not a number of {unit}, 0 or more.")
    return number


def parse_time_zone(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(" is not a time zone; it looks like Europe/Berlin.") from None


def parse_currency(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{1,8}|[^\w\s,;\"']", text):
        raise ValueError(" is not a currency; it looks like EUR.")
    return text


def parse_listen_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(
            " is not an address; give an IP address of this machine, or 0.0.0.0 for all."
        ) from None


def parse_own_address(text: str) -> str:
    """One address of this machine: not all of them, and no name that others may resolve differently."""
    try:
        if not ipaddress.ip_address(text).is_unspecified:
            return text
    except ValueError:
        pass
    raise ValueError(" is not an address of this machine; it looks like 192.168.1.20.")


def parse_yes_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(" is not yes or no.")
    return text == "yes"


def parse_broker_url(text: str) -> str:
    if not re.match(r"(nats|tls|ws|wss)://[^/\s]+", text):
        raise ValueError(" is not a broker's URL; it looks like nats://host:4222.")
    return text


def parse_executable(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ValueError(" is not a program that can be run.")
    return path


def parse_device_file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.suffix.lower() not in (".yaml", ".yml", ".toml", ".json"):
        raise ValueError(" must end in .yaml, .toml or .json.")
    return path


def parse_node(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(" is not a node name; use letters, digits, '_' and '-'.")
    return text


def parse_log_level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(" is not debug, info, warning or error.")
    return text.lower()


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(",")) if part]


def _write_sizes(sizes: Mapping[str, int]) -> str:
    return ",".join(f"{name}={write_size(size)}" for name, size in sizes.items())


TEXT = ValueKind(str)
HOME = ValueKind(parse_home)
STORES = ValueKind(parse_stores, lambda stores: ",".join(f"{name}={path}" for name, path in stores.items()))
PORT = ValueKind(parse_port)
BROKER_URL = ValueKind(parse_broker_url)
LISTEN_ADDRESS = ValueKind(parse_listen_address)
OWN_ADDRESS = ValueKind(parse_own_address)
YES_NO = ValueKind(parse_yes_no, lambda value: "yes" if value else "no")
EXECUTABLE = ValueKind(parse_executable)
DEVICE_FILE = ValueKind(parse_device_file)
NODE = ValueKind(parse_node)
NAMES = ValueKind(lambda text: tuple(_parts(text)), ",".join)
MEMORY_LIMITS = ValueKind(parse_memory_limits, _write_sizes)
SIZE = ValueKind(parse_size, write_size)
RATE = ValueKind(lambda text: parse_size(text) or None, write_size)
COUNT = ValueKind(parse_count)
SECONDS = ValueKind(partial(parse_number, "seconds"), "{:g}".format)
DAYS = ValueKind(partial(parse_number, "days"), "{:g}".format)
MIB = ValueKind(partial(parse_number, "MiB"), "{:g}".format)
TIME_ZONE = ValueKind(parse_time_zone)
CURRENCY = ValueKind(parse_currency)
LOG_LEVEL = ValueKind(parse_log_level)
