"""The registry: the one writer of `models`."""

from collections.abc import Mapping

from modelyard.bus import Bus
from modelyard.paths import resolve_inside
from modelyard.settings import Settings
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.errors import BadRequest, Conflict, ModelNotFound
from schemas.grammar import model_key
from schemas.models import ModelChanged, ModelSpec, ModelStored, find_model


class Registry:
    """Puts and finds models."""

    def __init__(self, bus: Bus, tasks: Tasks, settings: Settings, models: Mirror[ModelSpec]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._models = models
        self._store = Store(bus, buckets.MODELS)

    def find(self, name: str) -> ModelSpec:
        """The model with this name or alias; ModelNotFound."""
        spec = find_model(name, self._models.values)
        if spec is None:
            raise ModelNotFound(
                f"There is no model {name!r}; `yard list` shows those there are.", param="model"
            )
        return spec

    def revision(self, name: str) -> int:
        return self._models.revisions[model_key(name)]

    async def put(self, spec: ModelSpec) -> ModelStored:
        """Store a new or changed model. BadRequest or Conflict if it cannot be one."""
        key = model_key(spec.name)
        try:
            resolve_inside(self._settings.models, spec.path)
        except ValueError as error:
            raise BadRequest(str(error), param="path") from error
        if (clash := clashing(spec, self._models.values)) is not None:
            raise Conflict(clash, param="aliases")
        revision = await self._store.put(key, spec, last=self._models.revisions.get(key, 0))
        await self._models.until(lambda _: self._models.revisions.get(key, 0) >= revision)
        changed = ModelChanged(spec=spec, revision=revision)
        self._tasks.spawn(self._bus.emit(subjects.MODEL_CHANGED, changed, model=key), "event model")
        return ModelStored(name=spec.name, revision=revision)


def clashing(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> str | None:
    """Why the names of `spec` cannot be its own, or None."""
    for other in models.values():
        if other.name == spec.name:
            continue
        shared = {spec.name, *spec.aliases} & {other.name, *other.aliases}
        if shared:
            return f"The name {sorted(shared)[0]!r} belongs to the model {other.name!r} already."
    return None
