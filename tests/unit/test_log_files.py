"""Log files: the limits of a file, a log and a node; the limit of a message."""

from pathlib import Path

import msgspec
import pytest

from schemas.logs import LogLine
from services.supervisor.runner.engine_log import (
    BACKUPS,
    LOG_RETENTION_S,
    MAX_TOTAL_BYTES,
    LogPart,
    RotatingLogFile,
    find_log_parts,
    logs_to_delete,
    newest_that_fit,
)

NOW = 10_000_000.0
HALF = MAX_TOTAL_BYTES // 2


def test_a_log_file_is_rotated_and_the_newest_lines_stay(tmp_path: Path) -> None:
    with RotatingLogFile(tmp_path / "i.log", max_bytes=20) as log:
        for number in range(20):
            log.write([f"line {number:02}".encode()])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["i.log", "i.log.1", "i.log.2"]
    assert len(files) == BACKUPS + 1
    assert all(file.stat().st_size <= 20 + len("line 00\n") for file in files)
    lines_left = "".join(file.read_text() for file in reversed(files)).split("\n")
    assert lines_left[-3:] == ["line 18", "line 19", ""]
    assert lines_left == [*sorted(lines_left[:-1]), ""], "in order, the oldest in the last file"


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        with RotatingLogFile(tmp_path / "i.log") as log:
            log.write([text])
    assert (tmp_path / "i.log").read_text() == "first\nsecond\n"


def part(name: str, size_bytes: int = 1, age_s: float = 0.0) -> LogPart:
    return LogPart(Path(name), name.split(".")[0], size_bytes, NOW - age_s)


@pytest.mark.parametrize(
    ("parts", "deleted"),
    [
        ([part("a.log"), part("b.log", age_s=LOG_RETENTION_S - 1)], []),
        ([part("a.log"), part("b.log", age_s=LOG_RETENTION_S + 1)], ["b.log"]),
        ([part("live.log", age_s=LOG_RETENTION_S + 1)], []),
        ([part("a.log", HALF), part("b.log", HALF, 5), part("c.log", 1, 9)], ["c.log"]),
        ([part("live.log", MAX_TOTAL_BYTES, 9), part("a.log", 1, 1)], ["a.log"]),
        ([part("live.log", MAX_TOTAL_BYTES, 9), part("live.log.1", MAX_TOTAL_BYTES, 20)], []),
    ],
    ids=["all fits", "too old", "old, but live", "too large", "live owners count first", "live owners stay"],
)
def test_old_logs_are_deleted_by_age_and_total_size(parts: list[LogPart], deleted: list[str]) -> None:
    assert [str(path) for path in logs_to_delete(parts, {"live"}, NOW)] == deleted


def test_only_logs_of_instances_and_workers_are_deleted(tmp_path: Path) -> None:
    own = {"0123456789abcdef.log", "0123456789abcdef.log.1", "worker-0123456789abcdef.log"}
    for name in (*own, "gateway.log", "runners.log", "x.txt"):
        (tmp_path / name).write_text("x")
    assert {one.path.name for one in find_log_parts(tmp_path)} == own
    assert {one.owner for one in find_log_parts(tmp_path)} == {"0123456789abcdef"}


def test_a_batch_of_lines_has_the_newest_that_fit_one_message() -> None:
    """A flood of long lines exceeded NATS' default limit, and no later line was published."""
    lines = [LogLine(at=1.0, text=f"{number}" + "\x01" * 8000) for number in range(500)]
    lines_left = newest_that_fit(lines, 1024 * 1024)
    assert len(msgspec.json.encode(lines_left)) < 1024 * 1024
    assert lines_left[-1] == lines[-1]
    assert lines_left == tuple(lines[-len(lines_left) :])
    assert len(lines_left) > 1
    assert newest_that_fit(lines[:2], 1024) == ()
