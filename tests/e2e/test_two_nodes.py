"""Two machines, one yard: joining, placement, and what is left when one of them is gone."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.instances import InstanceState
from tests.e2e.chatting import chat
from tests.e2e.machines import Cable, first, second, tiny, two_machines, why_not
from tests.e2e.yard_process import YardProcess, watching

_WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_machines() as cable:
        yield cable


@pytest.fixture
async def a(tmp_path: Path, cable: Cable) -> AsyncIterator[YardProcess]:
    async with first(tmp_path / "a", cable) as yard:
        yield yard


async def test_a_model_runs_where_its_file_is(a: YardProcess, cable: Cable, tmp_path: Path) -> None:
    async with second(tmp_path / "b", a, cable) as b:
        await a.put(tiny(b.home, "far"))
        status, body = await chat(a.url, "far", max_tokens=4)
        assert status == 200, body
        async with watching(a.bus) as instances:
            assert (await instances.until("far", InstanceState.READY)).node == "b"
