"""Edits of a model that its instances follow without a restart: what is done to the fields of requests."""

from modelyard.bus import Bus
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets
from schemas.grammar import model_key
from schemas.models import ModelSpec
from services.supervisor.runner.desk import Desk


async def follow_edits(bus: Bus, tasks: Tasks, desk: Desk) -> None:
    """Let `desk` treat the next request as its model says by then."""
    own = model_key(desk.spec.name)

    def on_change(key: str, spec: ModelSpec | None) -> None:
        if key == own and spec is not None:
            desk.parameters = spec.parameters

    models: Mirror[ModelSpec] = await Mirror.start(bus, buckets.MODELS, tasks)
    models.listen(on_change)
    on_change(own, models.values.get(own))
