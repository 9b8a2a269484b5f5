"""The cost of a scan of a store with 10,000 models, compared with a bare walk of names and times."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.downloader.library.scanner import StoreScanner
from tests.gguf_bytes import Weight, gguf_bytes

_FOLDERS = 100
_ROUNDS = 5


def store_scan(console: Console) -> None:
    """Print one table."""
    header = gguf_bytes({"general.architecture": "llama"}, [Weight("token_embd.weight")])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in (root / f"org/r{index % _FOLDERS}/{index}.gguf" for index in range(100 * _FOLDERS)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(header)
        scanner = StoreScanner("bench", root)
        first_s = _seconds(lambda: scanner.scan(read_budget_s=600.0))
        bare_s = min(_seconds(lambda: _stat_all(root)) for _ in range(_ROUNDS))
        again_s = min(_seconds(scanner.scan) for _ in range(_ROUNDS))
    table = Table(title="A store of 10,000 models")
    for column in ("scan", "ms", "bare walks"):
        table.add_column(column, justify="left" if column == "scan" else "right")
    rows = (("os.walk with lstat", bare_s), ("first, with headers", first_s), ("no changes", again_s))
    for name, seconds in rows:
        table.add_row(name, f"{seconds * 1e3:.0f}", f"{seconds / bare_s:.1f}")
    console.print(table)


def _seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def _stat_all(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            (Path(folder) / name).lstat()
