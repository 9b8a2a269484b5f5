"""What is on disk becomes a model: one command to the registry, tried until it is there to answer."""

import asyncio
import time

import msgspec

from modelyard.bus import Bus
from schemas import subjects
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable
from schemas.models import ModelSpec, ModelStored
from schemas.registry import PutModel

_PATIENCE_S = 30.0
_PAUSE_S = 0.1


async def register(bus: Bus, spec: ModelSpec) -> ModelStored:
    """Put `spec` into the registry; its refusal is raised, its absence waited out."""
    asked = PutModel(**msgspec.structs.asdict(spec))
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await bus.call(subjects.MODEL_PUT, asked)
        except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)
