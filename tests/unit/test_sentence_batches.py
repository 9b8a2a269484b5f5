"""Dynamic batching, and cancelled requests."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from services.supervisor.engines.sentence_transformers.model import Batcher

Work = Batcher[str, str, str]


class Model:
    """Appends an exclamation mark; blocks its thread until `go` is set, and sets `started`."""

    def __init__(self) -> None:
        self.computed: list[tuple[str, list[str]]] = []
        self.started = threading.Event()
        self.go = threading.Event()

    def compute(self, kind: str, items: Sequence[str]) -> list[str]:
        self.computed.append((kind, list(items)))
        self.started.set()
        assert self.go.wait(10)
        if "bad" in items:
            raise ValueError("bad")
        return [f"{kind}:{item}!" for item in items]


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = Model()
    yield model
    model.go.set()


async def busy(model: Model, work: Work) -> asyncio.Task[list[str]]:
    """The model computes its first item, and is blocked there."""
    first = asyncio.create_task(work.run("k", ["first"]))
    assert await asyncio.to_thread(model.started.wait, 10)
    return first


async def test_waiting_items_are_computed_together_and_answered_separately(model: Model) -> None:
    work = Work(model.compute, 8)
    first = await busy(model, work)
    others = [asyncio.create_task(work.run("k", items)) for items in (["a", "b"], ["c"])]
    await asyncio.sleep(0)
    model.go.set()
    assert await asyncio.gather(first, *others) == [["k:first!"], ["k:a!", "k:b!"], ["k:c!"]]
    assert model.computed == [("k", ["first"]), ("k", ["a", "b", "c"])]


async def test_a_batch_does_not_exceed_its_size(model: Model) -> None:
    work = Work(model.compute, 2)
    model.go.set()
    assert await work.run("k", list("abcde")) == [f"k:{item}!" for item in "abcde"]
    assert [items for _, items in model.computed] == [["a", "b"], ["c", "d"], ["e"]]


async def test_kinds_are_batched_separately_and_in_order(model: Model) -> None:
    work = Work(model.compute, 8)
    first = await busy(model, work)
    submitted = [("x", "a"), ("y", "b"), ("x", "c"), ("y", "d")]
    others = [asyncio.create_task(work.run(kind, [item])) for kind, item in submitted]
    await asyncio.sleep(0)
    model.go.set()
    await asyncio.gather(first, *others)
    assert model.computed[1:] == [("x", ["a", "c"]), ("y", ["b", "d"])]


async def test_a_cancelled_item_is_not_computed(model: Model) -> None:
    work = Work(model.compute, 8)
    first = await busy(model, work)
    cancelled = asyncio.create_task(work.run("k", ["gone", "too"]))
    stays = asyncio.create_task(work.run("k", ["stays"]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    model.go.set()
    assert await stays == ["k:stays!"]
    assert await first == ["k:first!"]
    assert model.computed == [("k", ["first"]), ("k", ["stays"])]


async def test_cancelling_a_running_batch_does_not_affect_the_next(model: Model) -> None:
    work = Work(model.compute, 8)
    first = await busy(model, work)
    first.cancel()
    await asyncio.wait({first})
    model.go.set()
    assert await work.run("k", ["next"]) == ["k:next!"]


async def test_a_failure_reaches_the_callers_of_its_batch_only(model: Model) -> None:
    work = Work(model.compute, 8)
    first = await busy(model, work)
    bad = asyncio.create_task(work.run("k", ["bad", "worse"]))
    await asyncio.sleep(0)
    model.go.set()
    assert await first == ["k:first!"]
    with pytest.raises(ValueError, match="bad"):
        await bad
    assert await work.run("k", ["after"]) == ["k:after!"]
