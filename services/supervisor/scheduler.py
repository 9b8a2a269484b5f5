"""The scheduler: builds the world, asks the plan, and has the node act. Events wake it, state decides."""

import asyncio
import contextlib
import time

import nats.errors
import nats.js.errors

from modelyard import logging
from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.state import Mirror
from schemas import streams, subjects
from schemas.errors import YardError
from schemas.grammar import model_name, new_id
from schemas.instances import LIVE, Instance, InstanceState, StartInstance
from schemas.models import ModelSpec
from schemas.requests import RequestQueued
from services.supervisor.plan import Plan, StartModel, World, plan

log = logging.get(__name__)

LOOK_EVERY_S = 2.0
"""Even without any event: a lost one must not leave a request waiting."""
_PAUSE_S = 0.02
"""Between two looks, so that a burst of requests costs one."""


class Scheduler:
    """Runs on the supervisor that decides."""

    def __init__(
        self, bus: Bus, settings: Settings, models: Mirror[ModelSpec], instances: Mirror[Instance]
    ) -> None:
        self.reasons: dict[str, str] = {}
        """For every model that waits: why."""
        self._bus = bus
        self._settings = settings
        self._models = models
        self._instances = instances
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        instances.listen(lambda _key, _value: self._wake.set())
        models.listen(lambda _key, _value: self._wake.set())

    async def on_queued(self, _tokens: dict[str, str], request: RequestQueued) -> None:
        if not any(self._is_served(instance, request.model) for instance in self._instances.values.values()):
            self._wake.set()

    @staticmethod
    def _is_served(instance: Instance, model: str) -> bool:
        return instance.model == model and instance.state is InstanceState.READY

    def want(self, model: str) -> None:
        """Somebody asked for `model` to be started."""
        self._wanted.add(model)
        self._wake.set()

    def unwant(self, model: str) -> None:
        self._wanted.discard(model)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                look_again_at = await self._look()
            except (TimeoutError, nats.errors.Error, nats.js.errors.Error, YardError) as error:
                log.warning("look_failed", error=str(error))
                look_again_at = None
            await asyncio.sleep(_PAUSE_S)
            left_s = LOOK_EVERY_S if look_again_at is None else max(look_again_at - time.time(), _PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left_s, LOOK_EVERY_S))

    async def _look(self) -> float | None:
        made = plan(await self._world())
        self.reasons = made.reasons
        for start in made.starts:
            await self._start(start)
        self._drop_served(made)
        return made.look_again_at

    async def _world(self) -> World:
        return World(
            now=time.time(),
            models={spec.name: spec for spec in self._models.values.values()},
            instances=tuple(self._instances.values.values()),
            waiting=await self._waiting(),
            wanted=frozenset(self._wanted),
        )

    async def _waiting(self) -> dict[str, int]:
        """From the stream itself, which cannot be wrong."""
        info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=subjects.INFER.wildcard)
        waiting: dict[str, int] = {}
        for subject, count in (info.state.subjects or {}).items():
            name = model_name(subjects.INFER.parse(subject)["model"])
            waiting[name] = waiting.get(name, 0) + count
        return waiting

    async def _start(self, start: StartModel) -> None:
        """Propose it to the node, and wait until the instance shows: no second look may start it twice."""
        instance = new_id()
        key = next(key for key, spec in self._models.values.items() if spec.name == start.model)
        proposal = StartInstance(
            instance=instance,
            model=start.model,
            revision=self._models.revisions[key],
            failures=start.failures,
        )
        await self._bus.call(subjects.NODE_START, proposal, node=self._settings.node)
        await asyncio.wait_for(self._instances.until(lambda values: instance in values), 5)
        self._wanted.discard(start.model)

    def _drop_served(self, made: Plan) -> None:
        """A wish is fulfilled by an instance that lives."""
        live = {instance.model for instance in self._instances.values.values() if instance.state in LIVE}
        self._wanted -= live - made.reasons.keys()
