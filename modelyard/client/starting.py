"""Following a model on its way to ready."""

from collections.abc import AsyncGenerator, Iterable

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_model
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.errors import StartFailed
from schemas.instances import COMING, LIVE, Instance, InstanceState

_GONE = LIVE - COMING - {InstanceState.READY} | {InstanceState.STOPPED}


async def starting(bus: Bus, model: str, instance: str | None) -> AsyncGenerator[Instance, None]:
    """Every change of the instance that is to serve `model`, until it is ready; StartFailed if it fails."""
    name = (await read_model(bus, model)).name
    seen: Instance | None = None
    async with Tasks() as tasks:
        mirror = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        while seen is None or seen.state is not InstanceState.READY:
            await mirror.until(lambda values, before=seen: leading(values.values(), name, instance) != before)  # type: ignore[misc]
            seen = leading(mirror.values.values(), name, instance)
            _check(seen, name, followed=instance is not None)
            if seen is not None:
                yield seen


def leading(instances: Iterable[Instance], model: str, instance: str | None) -> Instance | None:
    """The instance that decides whether `model` gets ready: a ready one, else `instance`, else the newest."""
    of_model = sorted((each for each in instances if each.model == model), key=lambda each: each.changed_at)
    for candidates in (
        [each for each in of_model if each.state is InstanceState.READY],
        [each for each in of_model if instance is not None and each.instance == instance],
        [each for each in of_model if instance is None and each.state in COMING],
        [each for each in of_model if instance is None],
    ):
        if candidates:
            return candidates[-1]
    return None


def _check(seen: Instance | None, model: str, *, followed: bool) -> None:
    """StartFailed if nothing more is to be expected from `seen`."""
    if seen is not None and seen.state is InstanceState.FAILED:
        raise StartFailed(seen.error or f"{model} did not start: {seen.reason}.")
    if followed and (seen is None or seen.state in _GONE):
        raise StartFailed(f"{model} was stopped before it was ready.")
