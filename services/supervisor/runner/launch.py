"""What a supervisor tells a runner, as one JSON document on its standard input."""

import time

from schemas.base import Record
from schemas.instances import Instance, InstanceState, Placement, Reason, Reserved
from schemas.models import ModelSpec, fingerprint

DRAIN_S = 30.0
"""How long running requests may take to finish after SIGTERM; a second SIGTERM ends them."""
STOP_S = 5.0
"""How long an engine may take to end when it is told to."""


class Launch(Record):
    """Run this revision of this model as this instance."""

    instance: str
    spec: ModelSpec
    revision: int
    nats_url: str
    failures: int = 0
    """Failures of this model in a row before."""
    reserved: tuple[Reserved, ...] = ()
    """What it may take of each device."""
    placement: Placement = Placement()
    """Where and how, as the scheduler decided."""


def first_record(launch: Launch, node: str) -> Instance:
    """The instance as it is once its start was decided."""
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
