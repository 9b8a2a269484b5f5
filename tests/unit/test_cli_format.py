"""Sizes, durations, lines and tables of the command line."""

import argparse
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from modelyard import text
from modelyard.cli import (
    alerts,
    arguments,
    downloads,
    hub,
    instances,
    library,
    logs,
    models,
    progress,
    tables,
    usage,
)
from modelyard.client import Event
from modelyard.client.follow import leading
from modelyard.up.child import sentence_of
from schemas.alerts import Alert, EvaluatedSeries, RuleRecord
from schemas.downloads import Download, DownloadState
from schemas.hub import HubModel, OfferedChoice
from schemas.instances import Instance, InstanceState, Reason
from schemas.library import CachedModel, EntryFile, LibraryEntry, TrashedEntry
from schemas.registry import ModelGroup
from schemas.storage import ModelData, StoreStats
from schemas.usage import StoredReport, UsageReport, UsageRow, UsageSums
from schemas.webhooks import WebhookRecord

MIB = 1024**2


def instance(name: str, state: InstanceState, changed_at: float = 1.0, model: str = "demo") -> Instance:
    return Instance(
        instance=name,
        model=model,
        node="n",
        engine="e",
        revision=1,
        state=state,
        reason=Reason.REQUESTED,
        changed_at=changed_at,
    )


def download(**changed: object) -> Download:
    facts: dict[str, object] = {
        "download": "d1",
        "reference": "org/demo:Q4",
        "model": "demo",
        "state": DownloadState.TRANSFERRING,
        "created_at": 1.0,
        "changed_at": 1.0,
    }
    return Download(**{**facts, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("7d", 604800), ("1h30m", 5400), ("1w", 604800)],
)
def test_durations_are_parsed(written: str, seconds: float) -> None:
    assert arguments.parse_duration(written) == seconds


@pytest.mark.parametrize("wrong", ["", "10", "m", "-5m", "5 m", "10minutes", "1.5h"])
def test_a_duration_without_a_unit_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it like 30s"):
        arguments.parse_duration(wrong)


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.6, "1m"),
        (200, "3m 20s"),
        (7500, "2h 5m"),
        (349200, "4d 1h"),
        (-3, "0s"),
        (3605, "1h"),
    ],
)
def test_durations_are_formatted_in_their_two_largest_units(seconds: float, formatted: str) -> None:
    assert text.format_duration(seconds) == formatted


@pytest.mark.parametrize(
    ("count", "formatted"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_524, "1023.9 KiB"),
        (1_048_525, "1.0 MiB"),
        (5_150_000, "4.9 MiB"),
        (14_173_392_077, "13.2 GiB"),
        (5_497_558_138_880_000, "5000.0 TiB"),
    ],
)
def test_sizes_are_formatted_in_binary_units(count: float | None, formatted: str) -> None:
    assert text.format_size(count) == formatted


def test_terminal_control_sequences_are_removed() -> None:
    assert text.printable("\x1b[31mred\x1b[0m \x1b]0;title\x07\tand\nmore\x07\r\x9b") == "red \tand\nmore"


def test_a_table_prints_its_cells_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "org/[bold]model:smile:" + "x" * 90
    tables.table(("MODEL", ">SIZE"), [(name, "1.0 GB"), ("b", "12.0 MB")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["MODEL", "SIZE"], [name, "1.0", "GB"], ["b", "12.0", "MB"]]


@pytest.mark.parametrize(
    ("columns", "record"),
    [
        (alerts._ALERTS, Alert),
        (alerts._RULES, RuleRecord),
        (alerts._SERIES, EvaluatedSeries),
        (downloads._COLUMNS, Download),
        (hub._MODELS, HubModel),
        (hub._CHOICES, OfferedChoice),
        (instances._INSTANCES, Instance),
        (instances._GROUPS, ModelGroup),
        (library._ENTRIES, LibraryEntry),
        (library._TRASH, TrashedEntry),
        (library._CACHED, CachedModel),
        (library._FILES, EntryFile),
        (usage._REPORTS, StoredReport),
        (usage._ORPHANS, ModelData),
        (usage._STORES, StoreStats),
        (alerts._HOOKS, WebhookRecord),
    ],
)
def test_a_column_names_an_attribute_of_its_record(columns: dict[str, tables.Column], record: type) -> None:
    for path in filter(lambda column: isinstance(column, str), columns.values()):
        owner: Any = record
        for name in str(path).split("."):
            assert name in get_type_hints(owner) or hasattr(owner, name), path
            owner = get_type_hints(owner).get(name)


def test_a_cell_shows_lists_flags_and_absent_values() -> None:
    columns: dict[str, tables.Column] = {"A": "aliases", "B": "autostart", "C": "quant", "D": "count"}
    item = SimpleNamespace(aliases=("a", "b"), autostart=True, quant=None, count=2)
    assert tables.cells(columns, [item]) == [("a, b", "yes", "-", "2")]


def test_a_table_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    tables.table(
        ("MODEL", "INSTANCE", "NODE", "ENGINE", "STATE"),
        [("q" * 60, "0123456789abcdef", "node", "llama.cpp", "ready")],
    )
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "0123456789abcdef" in printed
    assert printed.count("q") == 60


def test_a_table_loses_no_column_where_the_terminal_is_too_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "dumb")
    tables.table(("MODEL", "INSTANCE", "NODE"), [("demo", "0123456789abcdef", "some-node")])
    assert capsys.readouterr().out.splitlines()[-2].split() == ["demo", "0123456789abcdef", "some-node"]


def test_an_unencodable_letter_is_printed_as_its_escape() -> None:
    script = "from modelyard.cli import main; main(['list'])"
    bare = {"PATH": "/bin", "PYTHONIOENCODING": "ascii", "YARD_HOME": "/nowhere/höme", "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=bare, capture_output=True, text=True)
    assert "h\\xf6me" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_error_of_a_service_log_line_is_its_sentence() -> None:
    assert (
        sentence_of('{"event": "service_failed", "error": "The file is damaged."}') == "The file is damaged."
    )
    for line in ('{"event": "ready"}', "an empty text", "[1]", '{"error": 3}'):
        assert sentence_of(line) == line


def test_a_download_is_one_line() -> None:
    running = download(bytes_total=2 * MIB, bytes_done=512 * 1024, speed_bytes_s=MIB, eta_s=90.0)
    assert progress.line(running) == "demo: transferring, 25%, 512.0 KiB of 2.0 MiB, 1.0 MiB/s, 1m 30s left"
    assert progress.line(download(state=DownloadState.QUEUED)) == "demo: queued"


@pytest.mark.parametrize(
    ("tty", "kind", "bars"),
    [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)],
)
def test_bars_need_a_terminal_with_cursor_control(
    monkeypatch: pytest.MonkeyPatch, tty: bool, kind: str, bars: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty, raising=False)
    monkeypatch.setenv("TERM", kind)
    assert progress.can_redraw() is bars


def test_a_change_of_state_is_a_progress_line_and_an_early_update_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = progress.ProgressLines()
    for done in range(100):
        lines.show(download(bytes_total=100, bytes_done=done))
    lines.show(download(state=DownloadState.FINISHED))
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "demo: transferring",
        "demo: finished",
    ]


def test_an_event_is_one_line() -> None:
    event = Event(
        subject="yard.event.instance.i1.failed",
        headers={"ce-type": "yard.event.instance.failed", "ce-time": "2026-01-02T03:04:05Z"},
        data={"model": "demo", "instance": "i1", "error": "it broke\nand more", "pid": None},
    )
    assert logs.format_event(event).split("  ", 1)[1].split() == [
        "instance.failed",
        "model=demo",
        "instance=i1",
        "error=it",
        "broke",
    ]
    foreign = Event(subject="yard.event.new.thing", headers={}, data=[1])
    assert logs.format_event(foreign).endswith("  new.thing")


def test_usage_of_several_models_has_a_total() -> None:
    def usage_of(model: str) -> UsageRow:
        return UsageRow(
            model=model,
            requests=1500,
            failed=1,
            cancelled=0,
            prompt_tokens=10,
            cached_tokens=0,
            completion_tokens=5,
        )

    total = UsageSums(
        requests=3000,
        failed=2,
        cancelled=0,
        prompt_tokens=20,
        cached_tokens=0,
        completion_tokens=10,
        cost="0.75",
    )
    one = UsageReport(rows=(usage_of("a"),), total=total, tz="UTC", currency="EUR")
    assert len(usage.rows(one)) == 1
    both = UsageReport(rows=(usage_of("a"), usage_of("b")), total=total, tz="UTC", currency="EUR")
    assert usage.rows(both)[-1] == (
        "total",
        "3,000",
        "2",
        "0",
        "20",
        "0",
        "10",
        "0.75 EUR",
    )


def test_the_state_of_a_model_is_the_first_in_order_of_its_instances() -> None:
    instances = [instance("a", InstanceState.FAILED), instance("b", InstanceState.LOADING)]
    assert models.state_of("demo", instances) == "loading"
    assert models.state_of("other", instances) == "stopped"
    assert set(models._STATE_ORDER) == set(InstanceState)


def test_the_size_of_a_model_is_that_of_its_newest_finished_download() -> None:
    finished = DownloadState.FINISHED
    downloads = [
        download(state=finished, bytes_total=1),
        download(state=finished, bytes_total=2, changed_at=2.0),
        download(bytes_total=3, changed_at=3.0),
    ]
    assert models.size_of("demo", downloads) == 2
    assert models.size_of("other", downloads) is None


def test_a_ready_instance_leads_then_the_requested_one_then_the_newest() -> None:
    failed, loading = instance("old", InstanceState.FAILED, 9.0), instance("new", InstanceState.LOADING, 1.0)
    ready, other = instance("r", InstanceState.READY), instance("x", InstanceState.READY, model="other")
    assert leading([failed, loading, ready, other], "demo", "new") is ready
    assert leading([failed, loading, other], "demo", "new") is loading
    assert leading([failed, other], "demo", "new") is None
    assert leading([failed, loading], "demo", None) is loading
    assert leading([failed], "demo", None) is failed


def test_the_version_is_printed_without_importing_the_modules_of_verbs() -> None:
    code = (
        "import sys\nfrom modelyard.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "assert not {'nats', 'rich', 'aiohttp', 'structlog'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("yard ")
