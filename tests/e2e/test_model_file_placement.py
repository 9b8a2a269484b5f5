"""Files of a model are copied to a node that can run it, and the waiting request is answered."""

from pathlib import Path

import pytest

from modelyard.bus.reads import read_bucket
from modelyard.files.tinymodels import write_reciter
from schemas import buckets, subjects
from schemas.instances import InstanceState
from schemas.library import FindOnNode, JobKind
from schemas.models import ModelSource, ModelSpec
from tests.e2e.chat_client import chat
from tests.e2e.machines import first_machine, second_machine, two_machines, unavailable_reason, yard_output
from tests.e2e.models import write_tiny_model
from tests.e2e.yard_process import running_yard, watch_instances
from tests.hub import Hub
from tests.support import eventually

_UNAVAILABLE = unavailable_reason()
pytestmark = pytest.mark.timeout(120)
S = InstanceState
PATH = "tiny/small-GGUF/small-Q8_0.gguf"


@pytest.mark.skipif(_UNAVAILABLE is not None, reason=str(_UNAVAILABLE))
async def test_a_model_without_room_on_its_node_is_copied_to_another_node(tmp_path: Path) -> None:
    with two_machines() as cable:
        async with (
            first_machine(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=1MiB") as a,
            second_machine(tmp_path / "b", a, cable) as b,
            watch_instances(a.bus) as instances,
        ):
            await a.put(write_tiny_model(a.home, "far"))
            await a.bus.call(subjects.LIBRARY_SCAN, FindOnNode(node="a"))

            async def plan() -> str:
                text = await yard_output(a, "plan", "far")
                return text if "its files are brought to b first" in text else ""

            assert "from a" in await eventually(plan, "the plan copies the files", timeout_s=20, every_s=0.1)
            status, body = await chat(a.url, "far", max_tokens=4)
            assert status == 200, body
            assert (await instances.until("far", S.READY)).node == "b"
            assert (b.models / "test/far.gguf").read_bytes() == (a.models / "test/far.gguf").read_bytes()
            # Models of a drained node are copied too.
            await a.put(write_tiny_model(a.home, "second"))
            await a.bus.call(subjects.LIBRARY_SCAN, FindOnNode(node="a"))
            await yard_output(a, "drain", "a")
            assert (await chat(a.url, "second", max_tokens=4))[0] == 200
            jobs = (await read_bucket(a.bus, buckets.JOBS)).values()
            assert {(job.subject, job.kind, job.node, *job.received) for job in jobs} == {
                (f"test/{name}.gguf", JobKind.COPY, "b", "a") for name in ("far", "second")
            }


async def test_a_model_that_only_the_hub_has_is_fetched_on_the_first_request(tmp_path: Path) -> None:
    write_reciter(tmp_path / "small.gguf", "Fetched when it was needed.")
    async with Hub() as hub, running_yard(tmp_path / "yard", HF_ENDPOINT=hub.url) as yard:
        repo = hub.add_repo("tiny/small-GGUF", {"small-Q8_0.gguf": tmp_path / "small.gguf"})
        source = ModelSource(repo="tiny/small-GGUF", revision=repo.sha)
        await yard.put(ModelSpec(name="small", path=PATH, source=source, n_ctx=512))
        status, body = await chat(yard.url, "small", max_tokens=40)
        assert status == 200, body
        assert body["choices"][0]["message"]["content"] == "Fetched when it was needed."
        missing = ModelSpec(name="lost", path="tiny/small-GGUF/other.gguf", source=source)
        await yard.put(missing)
        status, body = await chat(yard.url, "lost", max_tokens=4)
        assert status == 503
        assert "tiny/small-GGUF has no other.gguf" in body["error"]["message"]
