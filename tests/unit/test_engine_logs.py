"""Engine logs on disk: bounded by file, by log and by node."""

from pathlib import Path

import msgspec
import pytest

from schemas.logs import LogLine
from services.supervisor.node.log_retention import (
    MAX_TOTAL_BYTES,
    RETENTION_S,
    LogPart,
    expendable,
    find_log_parts,
)
from services.supervisor.runner.log_file import KEPT, LogFile
from services.supervisor.runner.log_lines import fitting

NOW = 10_000_000.0
HALF = MAX_TOTAL_BYTES // 2


def test_a_log_rotates_and_keeps_the_newest(tmp_path: Path) -> None:
    with LogFile(tmp_path / "i.log", max_bytes=20) as log:
        for number in range(20):
            log.write([f"line {number:02}".encode()])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["i.log", "i.log.1", "i.log.2"]
    assert len(files) == KEPT + 1
    assert all(file.stat().st_size <= 20 + len("line 00\n") for file in files)
    kept = "".join(file.read_text() for file in reversed(files)).split("\n")
    assert kept[-3:] == ["line 18", "line 19", ""]
    assert kept == [*sorted(kept[:-1]), ""], "in order, the oldest in the last file"


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        with LogFile(tmp_path / "i.log") as log:
            log.write([text])
    assert (tmp_path / "i.log").read_text() == "first\nsecond\n"


def part(name: str, size_bytes: int = 1, age_s: float = 0.0) -> LogPart:
    return LogPart(Path(name), name.split(".")[0], size_bytes, NOW - age_s)


@pytest.mark.parametrize(
    ("parts", "deleted"),
    [
        ([part("a.log"), part("b.log", age_s=RETENTION_S - 1)], []),
        ([part("a.log"), part("b.log", age_s=RETENTION_S + 1)], ["b.log"]),
        ([part("live.log", age_s=RETENTION_S + 1)], []),
        ([part("a.log", HALF), part("b.log", HALF, 5), part("c.log", 1, 9)], ["c.log"]),
        ([part("live.log", MAX_TOTAL_BYTES, 9), part("a.log", 1, 1)], ["a.log"]),
        ([part("live.log", MAX_TOTAL_BYTES, 9), part("live.log.1", MAX_TOTAL_BYTES, 20)], []),
    ],
    ids=["all fits", "too old", "old, but live", "too large", "live owners count first", "live owners stay"],
)
def test_logs_are_expendable_by_age_and_size(parts: list[LogPart], deleted: list[str]) -> None:
    assert [str(path) for path in expendable(parts, {"live"}, NOW)] == deleted


def test_only_logs_of_instances_and_workers_are_found(tmp_path: Path) -> None:
    own = {"0123456789abcdef.log", "0123456789abcdef.log.1", "worker-0123456789abcdef.log"}
    for name in (*own, "gateway.log", "runners.log", "x.txt"):
        (tmp_path / name).write_text("x")
    assert {one.path.name for one in find_log_parts(tmp_path)} == own
    assert {one.owner for one in find_log_parts(tmp_path)} == {"0123456789abcdef"}


def test_lines_for_the_wire_fit_one_message_the_newest_first_of_all() -> None:
    """A flood of long lines was too large for a broker with NATS' own limit, and nothing came after it."""
    lines = [LogLine(at=1.0, text=f"{number}" + "\x01" * 8000) for number in range(500)]
    kept = fitting(lines, 1024 * 1024)
    assert len(msgspec.json.encode(kept)) < 1024 * 1024
    assert kept[-1] == lines[-1]
    assert kept == tuple(lines[-len(kept) :])
    assert len(kept) > 1
    assert fitting(lines[:2], 1024) == ()
