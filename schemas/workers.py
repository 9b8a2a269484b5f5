"""Workers: processes that hold a part of a model for an instance, on its node or on another."""

from schemas.base import Record


class RpcOffer(Record):
    """What a node offers to models of other nodes; `problem` is the reason why it cannot."""

    host: str
    """The address under which other nodes reach its workers; on loopback only its own instances do."""
    version: str | None = None
    """Of its llama.cpp; None where a standalone program does not report it."""
    problem: str | None = None


class StartWorker(Record):
    """To a node: hold a part of a model for this instance."""

    worker: str
    """Its id."""
    instance: str
    model: str
    device: str
    memory_bytes: int
    """Memory to reserve; refused if it is not free."""
    token: str
    """A shared secret of the instance and this worker, required for the handshake."""

    def __repr__(self) -> str:
        return f"StartWorker({self.worker} for {self.instance})"


class WorkerStarted(Record):
    """It is listening; it exits unless its instance connects soon."""

    host: str
    port: int
    version: str | None = None
    """Version of its llama.cpp."""


class Worker(Record):
    """A worker in its node's record."""

    worker: str
    instance: str
    model: str
    device: str
    memory_bytes: int
    """Reserved from before it starts until after it has ended."""
