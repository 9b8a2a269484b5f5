"""What can be served now: the models by name and alias, and the state of their instances."""

import time

from modelyard.state import Mirror
from schemas.errors import ModelNotFound, StartFailed, WrongMode
from schemas.instances import LIVE, Instance, InstanceState
from schemas.models import Mode, ModelSpec, find_model

PATH_MODES = {"/v1/chat/completions": Mode.CHAT}
"""Which mode serves which path."""


class Catalog:
    """A view on the mirrors of models and instances."""

    def __init__(self, models: Mirror[ModelSpec], instances: Mirror[Instance]) -> None:
        self.models = models
        self.instances = instances

    def resolve(self, name: str) -> ModelSpec:
        """The model with this name or alias; never another one."""
        spec = find_model(name, self.models.values)
        if spec is None:
            raise ModelNotFound(
                f"There is no model {name!r}; the list of models has those there are.", param="model"
            )
        return spec

    def check(self, spec: ModelSpec, path: str) -> None:
        """WrongMode if the model does not serve `path`; StartFailed while it pauses after a failed start."""
        wanted = PATH_MODES[path]
        if spec.mode is not wanted:
            raise WrongMode(
                f"{spec.name} is a model for {spec.mode}; {path} needs one for {wanted}.", param="model"
            )
        failed = self.start_failure(spec.name)
        if failed is not None and failed.retry_at is not None and failed.retry_at > time.time():
            raise start_failed(failed)

    def start_failure(self, model: str) -> Instance | None:
        """The failed start of a model that has no living instance; None if it lives or never failed."""
        own = [instance for instance in self.instances.values.values() if instance.model == model]
        if any(instance.state in LIVE for instance in own):
            return None
        failed = [i for i in own if i.state is InstanceState.FAILED and not i.ever_ready]
        return max(failed, key=lambda instance: instance.changed_at, default=None)

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
    return StartFailed(f"{instance.model} could not be started. {instance.error}", retry_after_s=pause_s)
