"""What a supervisor tells a runner, as one JSON document on its standard input."""

from schemas.instances import Placement, Reserved
from schemas.models import ModelSpec
from schemas.record import Record


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
