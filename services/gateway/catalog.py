"""What can be served now: the models by name and alias, and the state of their instances."""

import time

from modelyard.bus.records import BucketCache
from schemas.base import model_key
from schemas.endpoints import endpoint_of, paths_of
from schemas.errors import ModelNotFound, StartFailed, WrongMode
from schemas.instances import LIVE, Instance, InstanceState
from schemas.models import ModelSpec, find_model
from schemas.placing import WaitingModel


class Catalog:
    """A view on the mirrors of models and instances."""

    def __init__(
        self,
        models: BucketCache[ModelSpec],
        instances: BucketCache[Instance],
        waits: BucketCache[WaitingModel] | None = None,
    ) -> None:
        self.models = models
        self.instances = instances
        self._waits = waits

    def waits_for(self, model: str) -> str | None:
        """What a model that is not served yet waits for, as the end of a sentence."""
        notice = self._waits.values.get(model_key(model)) if self._waits else None
        return notice.reason if notice else None

    def resolve(self, name: str) -> ModelSpec:
        """The model with this name or alias; never another one."""
        spec = find_model(name, self.models.values)
        if spec is None:
            raise ModelNotFound(
                f"There is no model {name!r}; the list of models has those there are.", param="model"
            )
        return spec

    def has(self, name: str) -> bool:
        """Whether there is a model of this name or alias."""
        return find_model(name, self.models.values) is not None

    def check(self, spec: ModelSpec, path: str) -> None:
        """WrongMode if the model does not serve `path`; StartFailed while it pauses after failures."""
        modes = endpoint_of(path).modes
        if modes and spec.mode not in modes:
            wanted, serves = " or ".join(sorted(modes)), " and ".join(paths_of(spec.mode))
            raise WrongMode(
                f"{spec.name} is a model for {spec.mode} and serves {serves}; {path} needs one for {wanted}.",
                param="model",
            )
        failed = self.start_failure(spec.name)
        if failed is not None and failed.retry_at is not None and failed.retry_at > time.time():
            raise start_failed(failed)

    def start_failure(self, model: str) -> Instance | None:
        """Why a model that has no living instance is not asked: its start failed, or its circuit is open.

        None if it lives or never failed. After a crash that was not yet one too many its requests wait.
        """
        own = [instance for instance in self.instances.values.values() if instance.model == model]
        if any(instance.state in LIVE for instance in own):
            return None
        failed = [i for i in own if i.state is InstanceState.FAILED]
        newest = max(failed, key=lambda instance: instance.changed_at, default=None)
        return newest if newest and (newest.circuit_open or not newest.ever_ready) else None

    def slots(self, spec: ModelSpec) -> int:
        """How many requests of a model are answered at a time: by those that run, or by one that would."""
        ready = [i for i in self.instances.values.values() if i.model == spec.name]
        return sum(i.slots for i in ready if i.state is InstanceState.READY) or spec.n_parallel

    def state(self, model: str) -> str:
        """The state of a model: that of its liveliest instance, else `stopped`."""
        states = [i.state for i in self.instances.values.values() if i.model == model]
        return next((state for state in _LIVELIEST if state in states), InstanceState.STOPPED)


_LIVELIEST = (
    InstanceState.READY,
    InstanceState.PROBING,
    InstanceState.LOADING,
    InstanceState.STARTING,
    InstanceState.DRAINING,
    InstanceState.STOPPING,
    InstanceState.FAILED,
)


def start_failed(instance: Instance) -> StartFailed:
    """What a caller is told about a failed start."""
    pause_s = max(1, round((instance.retry_at or 0) - time.time()))
    how = "does not stay up" if instance.ever_ready else "could not be started"
    return StartFailed(f"{instance.model} {how}. {instance.error}", retry_after_s=pause_s)
