"""Sizes and durations as people read them."""

import re
import time
from collections.abc import Mapping

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_SIZE_STEP = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def format_size(count: float | None) -> str:
    """Bytes in binary units: `731 B`, `4.9 MiB`, `13.2 GiB`; `-` for None."""
    if count is None:
        return "-"
    if count < _SIZE_STEP:
        return f"{count:.0f} B"
    *smaller, largest = _UNITS
    for unit in smaller:
        count /= _SIZE_STEP
        if round(count, 1) < _SIZE_STEP:
            return f"{count:.1f} {unit}"
    return f"{count / _SIZE_STEP:.1f} {largest}"


def format_sources(received: Mapping[str, int]) -> str:
    """Bytes by source, most first: `13.2 GiB from tower, 4.9 MiB from the hub`; empty for none."""
    most_first = sorted(received.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{format_size(count)} from {'the hub' if source == 'hub' else source}"
        for source, count in most_first
    )


def format_duration(seconds: float) -> str:
    """The two largest units that matter: `45s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    rest = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"


def format_age(then: float, now: float | None = None) -> str:
    """The time since `then` (unix seconds) in its largest unit: `3m`, `2h`."""
    return format_duration((time.time() if now is None else now) - then).split(" ")[0]


def format_clock(at: float) -> str:
    """The local day and time, short."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


def printable(text: str) -> str:
    """`text` without control sequences: engines and models print anything."""
    return _ESCAPES.sub("", text)
