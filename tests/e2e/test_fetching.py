"""A model whose files are elsewhere: they are brought where it can run, and whoever asked is answered."""

import asyncio
from pathlib import Path

import pytest

from modelyard.bus.reads import read_bucket
from modelyard.tinymodels import write_reciter
from schemas import buckets, subjects
from schemas.instances import InstanceState
from schemas.library import AskNode, JobKind
from schemas.models import ModelSource, ModelSpec
from tests.e2e.chatting import chat
from tests.e2e.machines import command, first, second, tiny, two_machines, why_not
from tests.e2e.yard_process import running_yard, watching
from tests.hub import Hub

_WHY_NOT = why_not()
pytestmark = pytest.mark.timeout(120)
S = InstanceState
PATH = "tiny/small-GGUF/small-Q8_0.gguf"


@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
async def test_what_has_no_room_where_its_files_are_is_copied_to_where_there_is(tmp_path: Path) -> None:
    with two_machines() as cable:
        async with (
            first(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=1MiB") as a,
            second(tmp_path / "b", a, cable) as b,
            watching(a.bus) as instances,
        ):
            await a.put(tiny(a.home, "far"))
            await a.bus.call(subjects.LIBRARY_SCAN, AskNode(node="a"))
            async with asyncio.timeout(20):
                while "its files are brought to b first" not in (foreseen := await command(a, "plan", "far")):
                    await asyncio.sleep(0.1)
            assert "from a" in foreseen
            status, body = await chat(a.url, "far", max_tokens=4)
            assert status == 200, body
            assert (await instances.until("far", S.READY)).node == "b"
            assert (b.models / "test/far.gguf").read_bytes() == (a.models / "test/far.gguf").read_bytes()
            # A machine that is set aside gives its models away, too.
            await a.put(tiny(a.home, "kept"))
            await a.bus.call(subjects.LIBRARY_SCAN, AskNode(node="a"))
            await command(a, "drain", "a")
            assert (await chat(a.url, "kept", max_tokens=4))[0] == 200
            jobs = (await read_bucket(a.bus, buckets.JOBS)).values()
            assert {(job.subject, job.kind, job.node, *job.received) for job in jobs} == {
                (f"test/{name}.gguf", JobKind.COPY, "b", "a") for name in ("far", "kept")
            }


async def test_a_model_that_only_the_hub_has_comes_when_somebody_asks_for_it(tmp_path: Path) -> None:
    write_reciter(tmp_path / "small.gguf", "Fetched when it was needed.")
    async with Hub() as hub, running_yard(tmp_path / "yard", HF_ENDPOINT=hub.url) as yard:
        repo = hub.add_repo("tiny/small-GGUF", {"small-Q8_0.gguf": tmp_path / "small.gguf"})
        source = ModelSource(repo="tiny/small-GGUF", revision=repo.sha)
        await yard.put(ModelSpec(name="small", path=PATH, source=source, n_ctx=512))
        status, body = await chat(yard.url, "small", max_tokens=40)
        assert status == 200, body
        assert body["choices"][0]["message"]["content"] == "Fetched when it was needed."
        lost = ModelSpec(name="lost", path="tiny/small-GGUF/other.gguf", source=source)
        await yard.put(lost)
        status, body = await chat(yard.url, "lost", max_tokens=4)
        assert status == 503
        assert "tiny/small-GGUF has no other.gguf" in body["error"]["message"]
