"""Following a model until it is ready."""

from collections.abc import AsyncGenerator, Iterable

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_model
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.errors import StartFailed
from schemas.instances import COMING, LIVE, Instance, InstanceState

_ENDING = LIVE - COMING - {InstanceState.READY} | {InstanceState.STOPPED}


async def follow_start(bus: Bus, model: str, instance: str | None) -> AsyncGenerator[Instance, None]:
    """Every change of the instance that is to serve `model`, until it is ready; StartFailed if it fails."""
    name = (await read_model(bus, model)).name
    latest: Instance | None = None
    async with Tasks() as tasks:
        cache = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        while latest is None or latest.state is not InstanceState.READY:
            await cache.until(
                lambda values, before=latest: leading(values.values(), name, instance) != before  # type: ignore[misc]
            )
            latest = leading(cache.values.values(), name, instance)
            _check(latest, name, followed=instance is not None)
            if latest is not None:
                yield latest


def leading(instances: Iterable[Instance], model: str, instance: str | None) -> Instance | None:
    """The instance that decides whether `model` gets ready: a ready one, else `instance`, else the newest."""
    own = sorted((other for other in instances if other.model == model), key=lambda own: own.changed_at)
    for candidates in (
        [other for other in own if other.state is InstanceState.READY],
        [other for other in own if instance is not None and other.instance == instance],
        [other for other in own if instance is None and other.state in COMING],
        [other for other in own if instance is None],
    ):
        if candidates:
            return candidates[-1]
    return None


def _check(latest: Instance | None, model: str, *, followed: bool) -> None:
    """StartFailed if `latest` cannot get ready any more."""
    if latest is not None and latest.state is InstanceState.FAILED:
        raise StartFailed(latest.error or f"{model} did not start: {latest.reason}.")
    if followed and (latest is None or latest.state in _ENDING):
        raise StartFailed(f"{model} was stopped before it was ready.")
