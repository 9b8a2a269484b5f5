"""Edits of a model that its instances follow without a restart: what is done to the fields of requests."""

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import model_key
from schemas.errors import YardError
from schemas.registry import ModelChanged
from services.supervisor.runner.desk import Desk

log = logs.get(__name__)


async def follow_edits(bus: Bus, tasks: Tasks, desk: Desk) -> None:
    """Let `desk` treat the next request as its model says by then.

    By events and not by a watch on the bucket: that would leave a consumer on the broker for every runner.
    """
    own, store = model_key(desk.spec.name), BucketStore(bus, buckets.MODELS)

    async def look() -> None:
        try:
            spec = await store.get(own)
        except YardError as error:
            log.warning("model_not_read", error=error.message)
            return
        if spec is not None:
            desk.parameters = spec.parameters

    async def on_change(_tokens: dict[str, str], changed: ModelChanged) -> None:
        if changed.after is not None:
            desk.parameters = changed.after.parameters

    def on_reconnect() -> None:
        # Changes while the broker was away were not heard.
        tasks.spawn(look(), "look at model")

    await bus.subscribe(subjects.MODEL_CHANGED, on_change, model=own)
    bus.on_reconnect(on_reconnect)
    await look()
