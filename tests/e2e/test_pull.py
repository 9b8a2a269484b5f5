"""From the hub to a chat, by the `yard` command."""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from modelyard.files.tinymodels import write_babbler, write_reciter
from schemas import subjects
from schemas.downloads import Download, DownloadState, StartDownload
from tests.e2e.chat_client import chat
from tests.e2e.yard_process import YardProcess, running_yard, yard_command
from tests.hub import Hub

pytestmark = pytest.mark.asyncio(loop_scope="module")
SENTENCE = "These words came from a hub on this very machine."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    write_reciter(folder / "small.gguf", SENTENCE)
    write_babbler(folder / "large.gguf", n_embd=512, n_layer=4, n_ff=2048)
    async with Hub() as hub:
        hub.add_repo("tiny/small-GGUF", {"small-Q8_0.gguf": folder / "small.gguf", "README.md": b"# small"})
        hub.add_repo("tiny/large-GGUF", {"large-F32.gguf": folder / "large.gguf"})
        hub.add_repo("tiny/page-GGUF", {"page-Q8_0.gguf": b"<html>" * 1000})
        hub.add_repo("tiny/words", {"README.md": b"# no model here"})
        yield hub


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home", HF_ENDPOINT=hub.url) as yard:
        yield yard


async def test_a_pulled_model_answers_a_chat(yard: YardProcess, hub: Hub) -> None:
    code, out, err = await yard_command(yard, "pull", "tiny/small-GGUF:Q8_0")
    assert code == 0, err
    assert "tiny/small-GGUF:Q8_0" in out
    code, out, err = await yard_command(yard, "chat", "tiny/small-GGUF:Q8_0", "Hello!")
    assert (code, out.strip()) == (0, SENTENCE), err
    _status, answer = await chat(yard.url, "tiny/small-GGUF:Q8_0")
    assert answer["choices"][0]["message"]["content"] == SENTENCE
    code, out, _ = await yard_command(yard, "list", "--json")
    names = {model["name"]: model for model in json.loads(out)}
    assert names["tiny/small-GGUF:Q8_0"]["source"]["quant"] == "Q8_0"
    assert len(names["tiny/small-GGUF:Q8_0"]["source"]["revision"]) == 40
    files = [path.relative_to(yard.models).as_posix() for path in yard.models.rglob("*") if path.is_file()]
    record = "tiny/small-GGUF/.modelyard.json"
    assert sorted(files) == ["modelyard/demo.gguf", record, "tiny/small-GGUF/small-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("tiny/nowhere", "tiny/nowhere"),
        ("tiny/small-GGUF:Q2_K", "Q8_0"),
        ("tiny/words", "GGUF"),
        ("tiny/page-GGUF", "not a GGUF model"),
        ("nonsense", "org/name"),
        ("../etc/passwd", "org/name"),
    ],
)
async def test_a_failed_pull_is_one_sentence_and_registers_nothing(
    yard: YardProcess, reference: str, text: str
) -> None:
    code, _, err = await yard_command(yard, "pull", reference)
    assert code == 1
    assert text in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    _, out, _ = await yard_command(yard, "list", "--json")
    assert reference not in [model["name"] for model in json.loads(out)]


async def test_a_disk_too_small_is_reported_before_the_first_byte(yard: YardProcess, hub: Hub) -> None:
    """Only the size of the file is requested; its content and hash do not exist."""
    free_bytes = psutil.disk_usage(str(yard.home)).free
    file = hub.add_repo("tiny/vast-GGUF", {"vast-Q8_0.gguf": b"GGUF"}).files["vast-Q8_0.gguf"]
    file.size_bytes = 2 * free_bytes
    code, _, err = await yard_command(yard, "pull", "tiny/vast-GGUF")
    assert code == 1
    assert "free" in err.lower()
    assert file.requests == 0


async def test_progress_is_published_at_most_twice_a_second_and_the_end_at_once(
    yard: YardProcess, hub: Hub
) -> None:
    file = hub.file("tiny/large-GGUF", "large-F32.gguf")
    file.faults.bytes_per_s = 5_000_000
    updates: list[tuple[float, Download]] = []

    async def on_progress(_tokens: dict[str, str], download: Download) -> None:
        updates.append((time.monotonic(), download))

    await yard.bus.subscribe(subjects.DOWNLOAD_PROGRESS, on_progress)
    code, _, err = await yard_command(yard, "pull", "tiny/large-GGUF", "--name", "large")
    assert code == 0, err
    moving = [(at, d) for at, d in updates if d.state is DownloadState.TRANSFERRING and d.bytes_done]
    assert len(moving) >= 3
    assert len(moving) <= (moving[-1][0] - moving[0][0]) / 0.5 + 2, "they may arrive in bursts"
    assert [d.bytes_done for _, d in moving] == sorted(d.bytes_done for _, d in moving)
    assert moving[-1][1].speed_bytes_s is not None
    assert updates[-1][1].state is DownloadState.FINISHED
    assert updates[-1][1].bytes_done == file.size_bytes


async def test_a_killed_downloader_resumes_its_download(yard: YardProcess, hub: Hub) -> None:
    file = hub.file("tiny/large-GGUF", "large-F32.gguf")
    (yard.models / "tiny" / "large-GGUF" / "large-F32.gguf").unlink()
    file.faults.bytes_per_s = 25_000_000
    before = file.bytes_sent
    started = await yard.bus.call(
        subjects.DOWNLOAD_START, StartDownload(reference="tiny/large-GGUF", name="again")
    )
    await hub.wait_until(lambda: file.bytes_sent > before + file.size_bytes // 3)
    yard.service("downloader").kill()
    finished = await yard.bus.nc.subscribe(
        subjects.DOWNLOAD_CHANGED.matching(download=started.download, state="finished")
    )
    await finished.next_msg(timeout=60)
    assert file.bytes_sent - before <= 1.05 * file.size_bytes
    assert (await chat(yard.url, "again", max_tokens=2))[0] == 200


async def test_the_hub_token_is_in_no_log_and_no_runner(tmp_path: Path, hub: Hub) -> None:
    secret = "hf_" + "s3cret" * 5
    async with running_yard(tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=secret) as yard:
        assert (await yard_command(yard, "pull", "tiny/small-GGUF"))[0] == 0
        assert (await chat(yard.url, "tiny/small-GGUF"))[0] == 200
        lines = [" ".join(process.cmdline()) for process in yard.processes().values()]
        texts = [path.read_text(errors="replace") for path in (tmp_path / "home" / "logs").glob("*")]
        assert not [text for text in lines + texts if secret in text]
        runners = [p for p in yard.processes().values() if "services.supervisor.runner" in p.cmdline()]
        assert runners
        assert not [p for p in runners if secret in p.environ().values()]
    assert os.environ.get("HF_TOKEN") != secret
