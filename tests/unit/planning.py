"""Worlds for the tests of the plan, in a few words."""

from schemas.instances import Instance, InstanceState, Reason, Reserved
from schemas.models import ModelSpec
from schemas.placing import Need, Option
from services.supervisor.planning.world import Demand, NodeRoom

NOW = 10_000.0
GIB = 1024**3


def spec(name: str, **fields: object) -> ModelSpec:
    return ModelSpec(name=name, path=f"{name}.gguf", **fields)  # type: ignore[arg-type]


def instance(
    model: str,
    gib: float = 0.0,
    state: InstanceState = InstanceState.READY,
    *,
    device: str = "gpu0",
    age_s: float = 1000.0,
    rested_s: float | None = None,
    **fields: object,
) -> Instance:
    """One that got ready `age_s` ago and has rested since, or for `rested_s`."""
    return Instance(
        **{
            "instance": f"{model}-{state}",
            "model": model,
            "node": "n",
            "engine": "e",
            "revision": 1,
            "state": state,
            "reason": Reason.REQUESTED,
            "changed_at": NOW - age_s,
            "ready_at": NOW - age_s,
            "used_at": None if rested_s is None else NOW - rested_s,
            "load_s": 10.0,
            "slots": 4,
            "reserved": (Reserved(device=device, predicted_bytes=int(gib * GIB)),) if gib else (),
            **fields,
        }
    )  # type: ignore[arg-type]


def option(gib: float = 0.0, profile: str | None = None, *, node: str = "n", device: str = "gpu0") -> Option:
    return Option(node=node, profile=profile, needs=(Need(device=device, memory_bytes=int(gib * GIB)),))


def room(gib: float = 16.0, *, cordoned: bool = False) -> NodeRoom:
    return NodeRoom(memory_bytes={"gpu0": int(gib * GIB)}, cordoned=cordoned)


def asked(waiting: int = 1, waited_s: float = 0.0) -> Demand:
    return Demand(waiting=waiting, since=NOW - waited_s)
