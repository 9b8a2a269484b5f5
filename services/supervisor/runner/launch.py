"""What a supervisor starts a runner with: one JSON document on its standard input."""

import time

from schemas.base import Record
from schemas.instances import Instance, InstanceState, Placement, Reason, Reserved
from schemas.models import ModelSpec, fingerprint

DRAIN_S = 30.0
"""How long requests in flight may take after SIGTERM; a second SIGTERM ends them."""
STOP_S = 5.0
"""How long an engine may take to exit after SIGTERM."""


class Launch(Record):
    """Run this revision of this model as this instance."""

    instance: str
    spec: ModelSpec
    revision: int
    nats_url: str
    failures: int = 0
    """Earlier failures of this model in a row."""
    reserved: tuple[Reserved, ...] = ()
    """The memory reserved on each device."""
    placement: Placement = Placement()
    """The scheduler's decision."""


def first_record(launch: Launch, node: str) -> Instance:
    """The instance record at its start."""
    now = time.time()
    return Instance(
        instance=launch.instance,
        model=launch.spec.name,
        node=node,
        engine=launch.spec.engine,
        revision=launch.revision,
        fingerprint=fingerprint(launch.spec),
        state=InstanceState.STARTING,
        reason=Reason.REQUESTED,
        changed_at=now,
        started_at=now,
        profile=launch.placement.profile,
        reserved=launch.reserved,
        failures=launch.failures,
    )
