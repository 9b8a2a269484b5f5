"""Workers: processes that hold a part of a model for an instance, on its node or on another."""

from schemas.base import Record


class RpcOffer(Record):
    """What a node can do for models of other nodes; `problem` says why it cannot."""

    host: str
    """The address under which other nodes reach its workers; on loopback only its own instances do."""
    version: str | None = None
    """Of its llama.cpp; None where the program stands alone and cannot say."""
    problem: str | None = None


class StartWorker(Record):
    """To a node: hold a part of a model for this instance."""

    worker: str
    """Its id."""
    instance: str
    model: str
    device: str
    memory_bytes: int
    """What it may take there; refused where that is not free."""
    token: str
    """A secret of the instance and this worker: who cannot prove to know it is not let in."""

    def __repr__(self) -> str:
        return f"StartWorker({self.worker} for {self.instance})"


class WorkerStarted(Record):
    """It listens, and ends unless its instance comes soon."""

    host: str
    port: int
    version: str | None = None
    """Of its llama.cpp."""


class Worker(Record):
    """A worker as its node knows it."""

    worker: str
    instance: str
    model: str
    device: str
    memory_bytes: int
    """Reserved from before it started until after it is gone."""
