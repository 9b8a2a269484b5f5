"""Reads the small files of /proc and /sys. A missing or malformed file is None."""

from pathlib import Path


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_field(path: Path, label: str, separator: str) -> str | None:
    """The value of the first line `label separator value` that has one."""
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(separator)
        if name.strip() == label and value.strip():
            return value.strip()
    return None


def read_float(path: Path, factor: float = 1.0) -> float | None:
    """The first number in a file, times `factor`."""
    try:
        return float((read_text(path) or "").split()[0]) * factor
    except (ValueError, IndexError):
        return None


def read_int(path: Path) -> int | None:
    """An integer, exact at any size."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None
