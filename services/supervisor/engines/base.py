"""What an engine is to a runner: how to start its server, where it listens, and what it answers there."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from modelyard.host.settings import Settings
from schemas.base import Format, Record, check_engine_name
from schemas.instances import EngineOffer, Placement
from schemas.models import ModelSpec

_PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "TZ",
    "XDG_CACHE_HOME",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
_SPINS = "1000"
"""So often a thread of libgomp looks for its next work before it sleeps.

By default it is 300,000 times. In these the threads of two engines on the same processors keep each other
from working: together they made 2 to 20 tokens a second each on two cores, now 70; one alone as many as ever.
"""
_PASSED_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "ONEAPI_",
    "ZE_",
    "VK_",
    "OMP_",
    "GOMP_",
    "NCCL_",
    "GGML_",
    "LLAMA_",
    "VLLM_",
    "TORCH",
    "TRITON_",
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


class EngineProblem(Exception):
    """The engine cannot serve this model here; the message says why."""


class Files(Record):
    """A model's files, resolved and known to be inside the store."""

    model: Path
    mmproj: Path | None = None
    chat_template: Path | None = None
    loras: tuple[Path, ...] = ()


class ServerCommand(Record):
    """A program to start: an argument list, never a shell line."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Api(Record):
    """What the server answers over HTTP, beside the paths of the model's mode."""

    health: str = "/health"
    """Answers 200 once the model can be asked, and not before."""
    slots: str | None = None
    """Lists what it works on, as llama.cpp's /slots; None: it lets go when its client does, or cannot say."""
    metrics: str | None = None
    """Tells its metrics as Prometheus text; it is asked only while the engine is at work."""
    lacks: frozenset[str] = frozenset()
    """Paths of `schemas.endpoints` that it does not have."""
    probe: dict[str, bool] = msgspec.field(default_factory=dict)
    """More fields for the one request that proves a model; few servers know the same."""


class Engine(Protocol):
    """One kind of server process that speaks HTTP on loopback.

    A class that inherits from this one has to say `name`, `refusal` and `command`. To end, a server gets
    SIGTERM when no request is at work any more, and SIGKILL 5 s later; that goes for all its processes.
    """

    name: str
    automatic: bool = True
    """Whether `auto` may choose it."""
    needs_files: bool = True
    """Whether the model's path must lead to a model that looks like one."""
    tells_port: bool = False
    """Whether it takes a free port itself and prints which; else it gets one."""
    spreads: bool = False
    """Whether it can have workers; then it finds them in `Placement.rpc`."""
    start_s: float = 60.0
    """How long a start may take beside reading the weights, where the model does not say."""

    def offer(self, settings: Settings) -> EngineOffer:
        """Whether it can be used on this node."""
        return EngineOffer(engine=self.name)

    @abstractmethod
    def refusal(self, spec: ModelSpec, kind: Format) -> str | None:
        """Why it cannot serve such a model on any machine, in a sentence; None if it can."""
        ...

    @abstractmethod
    def command(
        self, spec: ModelSpec, files: Files, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        """How to start it; `spec` is as placed already, `port` is 0 for an engine that tells its own."""
        ...

    def port(self, line: str) -> int | None:
        """The port it listens on, if this line of its output says so."""
        return None

    def progress(self, line: str) -> float | None:
        """How much of the model is loaded, 0 to 1, if this line tells; it may not be complete yet."""
        return None

    def api(self, spec: ModelSpec) -> Api:
        """What its server answers."""
        return Api()


_ENGINE = (
    "name",
    "automatic",
    "needs_files",
    "tells_port",
    "spreads",
    "start_s",
    "offer",
    "refusal",
    "command",
    "port",
    "progress",
    "api",
)


def checked(engine: Engine) -> Engine:
    """`engine` if it is one, whoever wrote it; TypeError or ValueError with what is wrong."""
    if missing := [name for name in _ENGINE if not hasattr(engine, name)]:
        raise TypeError(f"The engine lacks {', '.join(missing)}.")
    if check_engine_name(engine.name) == "auto":
        raise ValueError("'auto' is no name for an engine: it means that the yard chooses one")
    return engine


def minimal_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What an engine needs of our environment and no more: no token, no credential."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in _PASSED
        or (name.startswith(_PASSED_PREFIXES) and not any(word in name for word in _SECRET))
    }
    spins = {} if "OMP_WAIT_POLICY" in passed else {"GOMP_SPINCOUNT": _SPINS}
    # Without the last llama.cpp starts a debugger when it aborts.
    return {**spins, **passed, "GGML_NO_BACKTRACE": "1"}


def device_environment(placement: Placement) -> dict[str, str]:
    """The GPUs that a process may see, by their UUIDs: so two equal cards are told apart."""
    if not placement.devices:
        return {}
    visible = ",".join(gpu.device for gpu in placement.gpus)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}


def engine_environment(
    spec: ModelSpec, placement: Placement, own: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of an engine: ours in part, then its `own`, the model's, and what was decided."""
    return {**minimal_environment(), **(own or {}), **spec.env, **device_environment(placement)}
