"""Fetching: transfer orders, their progress, and the nodes on which the hub's files would fit."""

from pathlib import Path

import msgspec
import pytest

from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from modelyard.host.settings import Settings
from schemas.base import Format
from schemas.downloads import Download, DownloadState
from schemas.errors import ErrorDetail
from schemas.hub import Choice, Fit, Offer, OfferedChoice, OfferedFile
from schemas.library import EntryFormat, JobKind, JobState, LibraryEntry, LibraryJob, TrashedEntry, entry_id
from schemas.models import ModelSource, ModelSpec
from schemas.placement import NodeDevice, OnBehalfOf
from schemas.profiles import Lora
from services.supervisor.fetching.sources import read_offer
from services.supervisor.fetching.transfers import (
    FetchProgress,
    copy_order,
    fetch_progress,
    hub_order,
    transfers_to,
    trashed_files,
)
from services.supervisor.node.options import options, options_on_behalf_of

NOW = 1000.0
REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = ModelSource(repo="org/m", revision=REVISION)
GIB = 2**30


def spec(path: str = "org/m/m-Q4_0.gguf", **more: object) -> ModelSpec:
    return ModelSpec(**{"name": "m", "path": path, "source": SOURCE, **more})  # type: ignore[arg-type]


def entry(path: str, node: str = "a") -> LibraryEntry:
    return LibraryEntry(
        node=node,
        store="models",
        entry=entry_id(path),
        path=path,
        name=path,
        format=EntryFormat.GGUF,
        size_bytes=10,
        size="10 B",
        weights_bytes=10,
        n_files=1,
        modified_at=1.0,
    )


def test_files_on_a_node_are_copied_from_it() -> None:
    model_spec = spec("m.gguf", mmproj="mmproj.gguf", loras=(Lora(path="l.gguf"),))
    missing = ("m.gguf", "mmproj.gguf", "l.gguf")
    model, lora = [entry("m.gguf")], [entry("l.gguf", "c")]
    order = copy_order(model_spec, missing, [model, [], lora], "b")
    assert order is not None, "a projector comes along with its model"
    assert (order.entry, order.node) == (model[0].key, "b")
    assert copy_order(model_spec, missing[2:], [lora], "b").entry == lora[0].key  # type: ignore[union-attr]


def test_nothing_is_copied_unless_all_missing_files_are_available() -> None:
    lora = [entry("l.gguf", "c")]
    assert copy_order(spec("m.gguf"), ("l.gguf", "m.gguf"), [lora, []], "b") is None
    assert copy_order(spec("other.gguf"), ("l.gguf",), [[]], "b") is None


@pytest.mark.parametrize(
    ("missing", "include"),
    [
        (("org/m/m-Q4_0.gguf",), ("m-Q4_0.gguf",)),
        (("org/m/m-Q4_0.gguf", "org/m/mmproj-F16.gguf"), ("m-Q4_0.gguf", "mmproj-F16.gguf")),
        (("org/m/Q4/m-00001-of-00003.gguf",), ("Q4/m-?????-of-00003.gguf",)),
        (("org/m/[x]*.gguf",), ("[[]x][*].gguf",)),
        (("org/m",), ()),
    ],
)
def test_files_of_the_hub_are_downloaded_at_the_commit_of_the_model(
    missing: tuple[str, ...], include: tuple[str, ...]
) -> None:
    order = hub_order(spec(missing[0]), missing, "b")
    assert order is not None
    assert (order.reference, order.name, order.node) == (f"org/m@{REVISION}", "m", "b")
    assert order.choice == Choice(include=include)
    assert not order.register, "it is in the registry already"


def test_files_of_another_source_are_not_downloaded() -> None:
    assert hub_order(spec(source=None), ("org/m/m-Q4_0.gguf",), "b") is None
    assert hub_order(spec(), ("org/m/m-Q4_0.gguf", "mine/lora.gguf"), "b") is None
    assert hub_order(spec(), ("org/mm/m-Q4_0.gguf",), "b") is None


def job(state: JobState, **more: object) -> LibraryJob:
    return LibraryJob(
        **{
            "job": "j",
            "kind": JobKind.COPY,
            "node": "b",
            "store": "models",
            "subject": "org/m/m-Q4_0.gguf",
            "state": state,
            "created_at": NOW - 50,
            "changed_at": NOW - 50,
            "source": entry("org/m/m-Q4_0.gguf").key,
            **more,
        }
    )  # type: ignore[arg-type]


def download(state: DownloadState, **more: object) -> Download:
    return Download(
        **{
            "download": "d",
            "reference": f"org/m@{REVISION}",
            "model": "m",
            "state": state,
            "created_at": NOW - 50,
            "changed_at": NOW - 50,
            "node": "b",
            **more,
        }
    )  # type: ignore[arg-type]


NO_SPACE = ErrorDetail(message="The disk is full.", type="t", code="no_space")
J, D = JobState, DownloadState
ARRIVED = "its files have arrived on b"


@pytest.mark.parametrize(
    ("jobs", "downloads", "requested_at", "expected"),
    [
        ([], [], None, None),
        ([job(J.QUEUED)], [], None, FetchProgress("its files are being copied from a to b")),
        (
            [job(J.RUNNING, bytes_done=34, bytes_total=100)],
            [],
            None,
            FetchProgress("its files are being copied from a to b (34 %)"),
        ),
        ([job(J.RUNNING, node="c")], [], None, None),
        ([job(J.RUNNING, subject="other.gguf")], [], None, None),
        ([job(J.RUNNING, kind=JobKind.VERIFY)], [], None, None),
        ([job(J.FINISHED, changed_at=NOW - 3)], [], None, FetchProgress(ARRIVED)),
        (
            [job(J.FINISHED)],
            [],
            None,
            FetchProgress("its files could not be brought to b: what came is not what it needs", failed=True),
        ),
        (
            [job(J.FAILED, error=NO_SPACE)],
            [],
            None,
            FetchProgress("its files could not be brought to b: The disk is full", failed=True),
        ),
        ([job(J.FAILED, error=NO_SPACE, changed_at=NOW - 90)], [], None, None),
        ([job(J.FAILED, error=NO_SPACE)], [], NOW - 10, None),
        (
            [job(J.CANCELLED)],
            [],
            NOW - 60,
            FetchProgress("its files could not be brought to b: the copy was cancelled", failed=True),
        ),
        (
            [job(J.FAILED, error=NO_SPACE, changed_at=NOW - 1)],
            [download(D.TRANSFERRING, bytes_done=1, bytes_total=2)],
            None,
            FetchProgress("its files are being downloaded to b (50 %)"),
        ),
        ([], [download(D.QUEUED)], None, FetchProgress("the download of its files to b waits for its turn")),
        ([], [download(D.PAUSED)], None, FetchProgress("the download of its files to b is paused")),
        (
            [],
            [download(D.CANCELLED)],
            None,
            FetchProgress("its files could not be brought to b: the download was cancelled", failed=True),
        ),
        ([], [download(D.TRANSFERRING, model="other")], None, None),
        ([], [download(D.TRANSFERRING, node="a")], None, None),
    ],
)
def test_fetch_progress(
    jobs: list[LibraryJob],
    downloads: list[Download],
    requested_at: float | None,
    expected: FetchProgress | None,
) -> None:
    transfers = transfers_to("b", "m", ["org/m/m-Q4_0.gguf"], jobs, downloads)
    assert fetch_progress(transfers, "b", NOW, requested_at) == expected


def test_trashed_files_are_fetched_only_for_a_later_start_command() -> None:
    trashed = TrashedEntry(
        node="b",
        store="models",
        item="i",
        path="m.gguf",
        name="m",
        format=EntryFormat.GGUF,
        size_bytes=1,
        size="1 B",
        n_files=1,
        trashed_at=NOW,
        expires_at=NOW + 10,
    )
    refused = trashed_files([trashed], ["m.gguf"], "b", NOW - 1)
    assert refused is not None
    assert refused.failed
    assert "in the trash of b; restore them (yard library restore m)" in refused.text
    assert trashed_files([trashed], ["m.gguf"], "b", None) == refused
    assert trashed_files([trashed], ["m.gguf"], "b", NOW + 1) is None
    assert trashed_files([trashed], ["m.gguf"], "a", None) is None
    assert trashed_files([trashed], ["n.gguf"], "b", None) is None


def offer(*fits: Fit, problem: str | None = None) -> Offer:
    files = (OfferedFile(path="m-Q4_0.gguf", size_bytes=7),)
    offered = OfferedChoice(
        label="Q4_0", reference="org/m:Q4_0", format=Format.GGUF, files=files, size_bytes=7, fits=fits
    )
    return Offer(repo="org/m", revision=REVISION, choices=(offered,), problem=problem)


def test_an_offer_is_read_as_options_and_refusals() -> None:
    offered = read_offer(
        offer(
            Fit(node="a", devices=("gpu0",), needs_bytes=5, sentence="fits"),
            Fit(node="b", devices=("gpu0", "gpu1"), needs_bytes=9, sentence="fits"),
            Fit(node="c", sentence="needs at least 5 GiB, and node c has 1 GiB: it does not fit"),
        ),
        "org/m/m-Q4_0.gguf",
    )
    assert [(need.device, need.memory_bytes) for need in offered.options["a"].needs] == [("gpu0", 5)]
    assert offered.options["b"].needs == ()
    assert offered.refusals == {"c": "it needs at least 5 GiB, and node c has 1 GiB: it does not fit"}
    assert offered.size_bytes == 7


def test_an_offer_without_the_file_is_a_problem() -> None:
    assert "org/m has no m-Q8_0.gguf" in (read_offer(offer(), "org/m/m-Q8_0.gguf").problem or "")
    assert "has no" in (read_offer(offer(), "org/m").problem or "")
    unknown = read_offer(offer(), "org/m/m-Q4_0.gguf")
    assert (unknown.problem, unknown.options, unknown.refusals) == (None, {}, {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    server = tmp_path / "llama-server"
    server.touch(mode=0o755)
    return Settings(home=tmp_path, node="a", llama_server=server)


def devices(gib: int) -> tuple[NodeDevice, ...]:
    return (NodeDevice(device="cpu", name="cpu", memory_bytes=gib * GIB),)


def test_a_node_lists_missing_files_and_another_answers_on_its_behalf(settings: Settings) -> None:
    settings.models.mkdir()
    write_reciter(settings.models / "m.gguf", DEMO_SENTENCE)
    here = spec("m.gguf")
    lacking = spec("m.gguf", loras=(Lora(path="l.gguf"),), mmproj="p.gguf")
    answer = options(lacking, settings, devices(8), {})
    assert (answer.missing, answer.engine) == (("p.gguf", "l.gguf"), "llama.cpp")
    assert "p.gguf of model m is not in the store" in (answer.problem or "")
    own = options(here, settings, devices(8), {})
    assert (own.problem, own.missing) == (None, ())
    other_node = OnBehalfOf(node="b", engine="llama.cpp", devices=devices(8))
    other = options_on_behalf_of(other_node, here, settings, {})
    assert [msgspec.structs.replace(one, node="a") for one in other.options] == list(own.options)
    assert {one.node for one in other.options} == {"b"}
    assert "not in the store" in (options_on_behalf_of(other_node, lacking, settings, {}).problem or "")


def test_a_node_with_fetching_disabled_lists_no_missing_files(settings: Settings) -> None:
    answer = options(spec(), msgspec.structs.replace(settings, fetch=False), devices(8), {})
    assert answer.missing == ()
    assert "is not in the store" in (answer.problem or "")
