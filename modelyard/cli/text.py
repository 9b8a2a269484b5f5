"""Numbers and times as people read them, and durations as they write them."""

import argparse
import re
import time
from collections.abc import Mapping

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+[smhdw])+")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i)?)?B?(?:/s)?")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_SIZE_STEP = 1000


def duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `7d` or `1h30m`; an argparse error for anything else."""
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it like 30s, 10m, 2h or 7d")
    return float(sum(int(part[:-1]) * _UNITS_S[part[-1]] for part in re.findall(r"\d+[smhdw]", text)))


def spell_duration(seconds: float) -> str:
    """The two largest units that matter: `45s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"


def spell_size(count: float | None) -> str:
    """Bytes in steps of a thousand, as hubs and disks are sold: `731 B`, `4.9 MB`, `13.2 GB`."""
    if count is None:
        return "-"
    if count < _SIZE_STEP:
        return f"{count:.0f} B"
    units = ["kB", "MB", "GB", "TB"]
    count /= _SIZE_STEP
    while round(count, 1) >= _SIZE_STEP and len(units) > 1:
        count /= _SIZE_STEP
        del units[0]
    return f"{count:.1f} {units[0]}"


def spell_sources(received: Mapping[str, int]) -> str:
    """From where bytes came: `13.2 GB from tower, 4.9 MB from the hub`; nothing for nothing."""
    most_first = sorted(received.items(), key=lambda each: -each[1])
    return ", ".join(
        f"{spell_size(count)} from {'the hub' if source == 'hub' else source}" for source, count in most_first
    )


def rate(text: str) -> int | None:
    """Bytes a second of `500kB`, `20M` or `1.5MiB/s`; None for `none`; else an argparse error."""
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


def ago(then: float, now: float | None = None) -> str:
    """How long `then` is past, in its largest unit: `3m`, `2h`."""
    return spell_duration((time.time() if now is None else now) - then).split(" ")[0]


def clock(at: float) -> str:
    """The local day and time, short."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


def safe(text: str) -> str:
    """`text` without what would steer the terminal: engines and models print what they like."""
    return _ESCAPES.sub("", text)
