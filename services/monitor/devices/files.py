"""Reading what the kernel shows in small files. One that is not there or makes no sense is None."""

from pathlib import Path


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path, factor: float = 1.0) -> float | None:
    """The number in a file, times `factor`."""
    try:
        return float((read_text(path) or "").split()[0]) * factor
    except (ValueError, IndexError):
        return None


def read_whole(path: Path) -> int | None:
    """A whole number: large ones stay exact."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None
