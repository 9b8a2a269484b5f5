"""The models by name and alias, and the state of their instances."""

import time
from dataclasses import dataclass

from modelyard.bus.records import BucketCache
from schemas.base import model_key
from schemas.errors import ModelNotFound, StartFailed, WrongMode
from schemas.instances import LIVE, Instance, InstanceState
from schemas.models import ModelSpec, find_model
from schemas.placement import WaitingModel
from schemas.requests import endpoint_of, paths_of


@dataclass
class Catalog:
    """A view of the caches of models, instances and waiting models."""

    models: BucketCache[ModelSpec]
    instances: BucketCache[Instance]
    waiting: BucketCache[WaitingModel] | None = None

    def _instances_of(self, model: str) -> list[Instance]:
        return [instance for instance in self.instances.values.values() if instance.model == model]

    def waiting_reason(self, model: str) -> str | None:
        """What a model waits for that is not served yet, as the end of a sentence."""
        waiting = self._waiting(model)
        return waiting.reason if waiting else None

    def _waiting(self, model: str) -> WaitingModel | None:
        return self.waiting.values.get(model_key(model)) if self.waiting else None

    def resolve(self, name: str) -> ModelSpec:
        """The model with this name or alias; never another one."""
        spec = find_model(name, self.models.values)
        if spec is None:
            raise ModelNotFound(
                f"There is no model {name!r}; the list of models has those there are.", param="model"
            )
        return spec

    def has_model(self, name: str) -> bool:
        return find_model(name, self.models.values) is not None

    def check(self, spec: ModelSpec, path: str) -> None:
        """WrongMode if the model does not serve `path`; StartFailed while it is refused or backs off."""
        modes = endpoint_of(path).modes
        if modes and spec.mode not in modes:
            wanted, serves = " or ".join(sorted(modes)), " and ".join(paths_of(spec.mode))
            raise WrongMode(
                f"{spec.name} is a model for {spec.mode} and serves {serves}; {path} needs one for {wanted}.",
                param="model",
            )
        if (refusal := self.refusal(spec.name)) is not None:
            raise refusal
        failed = self.start_failure(spec.name)
        if failed is not None and failed.retry_at is not None and failed.retry_at > time.time():
            raise start_failed(failed)

    def refusal(self, model: str) -> StartFailed | None:
        """The error for requests of a model that cannot run here; None if it can, or lives."""
        waiting, now = self._waiting(model), time.time()
        if waiting is None or waiting.refused is None or waiting.refused.retry_at <= now:
            return None
        if any(instance.state in LIVE for instance in self._instances_of(model)):
            return None
        pause_s = max(1, round(waiting.refused.retry_at - now))
        return StartFailed(f"{model} could not be started. {waiting.refused.error}", retry_after_s=pause_s)

    def start_failure(self, model: str) -> Instance | None:
        """The newest failure of a model without a live instance: never ready, or its circuit is open.

        None after a crash that does not open the circuit: requests wait for the restart.
        """
        own = self._instances_of(model)
        if any(instance.state in LIVE for instance in own):
            return None
        failed = [i for i in own if i.state is InstanceState.FAILED]
        newest = max(failed, key=lambda instance: instance.changed_at, default=None)
        return newest if newest and (newest.circuit_open or not newest.ever_ready) else None

    def slots(self, spec: ModelSpec) -> int:
        """How many requests a model answers at a time: the slots of its ready instances, else of one."""
        own = self._instances_of(spec.name)
        return sum(i.slots for i in own if i.state is InstanceState.READY) or spec.n_parallel

    def state(self, model: str) -> str:
        """The state of its instance closest to ready; without one `failed` if refused, else `stopped`."""
        states = [instance.state for instance in self._instances_of(model)]
        without = InstanceState.STOPPED if self.refusal(model) is None else InstanceState.FAILED
        return next((state for state in _BY_READINESS if state in states), without)


_BY_READINESS = (
    InstanceState.READY,
    InstanceState.PROBING,
    InstanceState.LOADING,
    InstanceState.STARTING,
    InstanceState.DRAINING,
    InstanceState.STOPPING,
    InstanceState.FAILED,
)


def start_failed(instance: Instance) -> StartFailed:
    retry_after_s = max(1, round((instance.retry_at or 0) - time.time()))
    how = "does not stay up" if instance.ever_ready else "could not be started"
    return StartFailed(f"{instance.model} {how}. {instance.error}", retry_after_s=retry_after_s)
