"""Profiles: devices, memory, replicas and embedding options of a model."""

import msgspec

from schemas.base import Record, check_process

MAX_WORKERS = 15
"""llama.cpp counts with 16 devices at most."""
ANY_GPU = "gpu"
"""Instead of a device's name: any GPU with enough free memory."""
CPU = "cpu"
"""The device that every node has: its main memory."""
ANY_NODE = "any"
"""Instead of a node's name: any other node with enough free memory."""


def check_n_ctx(n_ctx: int | None) -> None:
    """ValueError for a context that no engine has."""
    if n_ctx is not None and not 16 <= n_ctx <= 16_777_216:
        raise ValueError("n_ctx must be between 16 and 16777216 tokens")


def check_n_parallel(n_parallel: int | None) -> None:
    """ValueError for a number of slots that no engine has."""
    if n_parallel is not None and not 1 <= n_parallel <= 256:
        raise ValueError("n_parallel must be between 1 and 256")


class DeviceNeed(Record):
    """One device that a profile uses."""

    device: str
    """A device's id (a GPU's UUID, `cpu`), its name as the monitor shows it, or `gpu` for any GPU."""
    memory_mib: int | None = None
    """Memory of the model there; None: estimated from its files."""

    def __post_init__(self) -> None:
        if not self.device:
            raise ValueError("device must not be empty")
        if self.memory_mib is not None and not 0 <= self.memory_mib <= 64 * 1024 * 1024:
            raise ValueError("memory_mib must be between 0 and 67108864")


class WorkerNeed(Record):
    """A part of the model that a worker holds: llama.cpp's RPC server, on another node or on the same."""

    node: str = ANY_NODE
    """A node's name, or `any`: another node than the model's own, for each such worker a different one."""
    device: str = CPU
    """As in DeviceNeed, on that node."""
    memory_mib: int | None = None
    """Its memory limit: as many layers as fit. None: an even share of the layers."""

    def __post_init__(self) -> None:
        if not self.node or not self.device:
            raise ValueError("node and device must not be empty")
        if self.memory_mib is not None and not 1 <= self.memory_mib <= 64 * 1024 * 1024:
            raise ValueError("memory_mib must be between 1 and 67108864")


class Profile(Record):
    """One way to run a model. Profiles are tried in order; None fields are as in the model's spec."""

    name: str = "default"
    devices: tuple[DeviceNeed, ...] = ()
    """All of them are used together; none: a GPU if one has room, else the CPU."""
    workers: tuple[WorkerNeed, ...] = ()
    """More parts of it elsewhere; the engine `llama.cpp` alone can do that."""
    args: tuple[str, ...] = ()
    """Arguments for the engine after those of the model."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Additional environment variables for the engine; visible to every reader of the registry."""
    n_ctx: int | None = None
    n_parallel: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a profile needs a name")
        if len(self.workers) > MAX_WORKERS:
            raise ValueError(f"a profile has at most {MAX_WORKERS} workers")
        if [need.device for need in self.devices].count(CPU) > 1:
            raise ValueError(f"a profile has the device {CPU} once at most")
        check_process(self.args, self.env)
        check_n_ctx(self.n_ctx)
        check_n_parallel(self.n_parallel)


class Replicas(Record):
    """The number of instances: between `min` and `max`, depending on the queue."""

    min: int = 0
    max: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max <= 64 or self.max < 1:
            raise ValueError("replicas must be 0 <= min <= max, with max between 1 and 64")


class Lora(Record):
    """An adapter on top of a model."""

    path: str
    """Relative to the store."""
    scale: float = 1.0


class EmbeddingOptions(Record):
    """Options of an embedding model for the engine sentence-transformers."""

    task: str | None = None
    """The name of a prompt of the model, such as `query` or `document`."""
    dimensions: int | None = None
    """Vectors are truncated to this length, for models trained for it."""
    normalize: bool = True
    batch_size: int = 32
    """Texts that go through the model at once."""

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError("dimensions must be at least 1")
        if not 1 <= self.batch_size <= 4096:
            raise ValueError("batch_size must be between 1 and 4096")
