"""What an engine is: how to start its server process, where it listens, and which HTTP paths it has."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from modelyard.host.plugins import PluginKind
from modelyard.host.settings import Settings
from schemas.base import Format, Record, check_engine_name
from schemas.instances import EngineOffer, Placement
from schemas.models import ModelSpec

_PASSED = (
    *("PATH", "HOME", "LANG", "TMPDIR", "TZ", "XDG_CACHE_HOME"),
    *("PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
)
_SPIN_COUNT = "1000"
"""How often an idle thread of libgomp spins before it sleeps.

The default is 300,000. With it, the threads of two engines on the same processors block each other: on two
cores together they generated 2 to 20 tokens/s each, now 70; a single engine is as fast as before.
"""
_PASSED_PREFIXES = (
    *("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "ONEAPI_", "ZE_", "VK_"),
    *("OMP_", "GOMP_", "NCCL_", "GGML_", "LLAMA_", "VLLM_", "TORCH", "TRITON_"),
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


class EngineProblem(Exception):
    """The engine cannot serve this model here; the message is the reason."""


class ModelFiles(Record):
    """A model's files, resolved and inside the store."""

    model: Path
    mmproj: Path | None = None
    chat_template: Path | None = None
    loras: tuple[Path, ...] = ()


class ServerCommand(Record):
    """A program to start: an argument list, never a shell line."""

    argv: tuple[str, ...]
    env: dict[str, str]


class EngineApi(Record):
    """The HTTP paths of the server, beside those of the model's mode."""

    health_path: str = "/health"
    """Answers 200 once the model is ready, and not before."""
    slots_path: str | None = None
    """Lists the requests in flight, as llama.cpp's /slots; None: a closed connection is enough to end one."""
    metrics_path: str | None = None
    """Metrics as Prometheus text; read only while the engine is busy."""
    missing_paths: frozenset[str] = frozenset()
    """Paths of `schemas.requests` that the server does not have."""
    probe_fields: dict[str, bool] = msgspec.field(default_factory=dict)
    """More fields for the one request that proves a model ready."""


class Engine(Protocol):
    """One kind of server process that speaks HTTP on loopback.

    A subclass has to define `name`, `refusal` and `command`. To stop a server, all its processes get SIGTERM
    once no request is in flight, and SIGKILL 5 s later.
    """

    name: str
    automatic: bool = True
    """Whether `auto` may choose it."""
    preference: int = 100
    """Rank in the choice of `auto`, the lowest first."""
    needs_files: bool = True
    """Whether the model's path must lead to a valid model."""
    reports_port: bool = False
    """Whether it chooses a free port itself and prints it; otherwise it is given one."""
    supports_workers: bool = False
    """Whether a model may be spread over workers; their addresses are in `Placement.rpc`."""
    start_timeout_s: float = 60.0
    """How long a start may take beside reading the weights, unless the model has a start budget."""

    def offer(self, settings: Settings) -> EngineOffer:
        """Whether it can be used on this node."""
        return EngineOffer(engine=self.name)

    @abstractmethod
    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        """Why it cannot serve such a model on any node, as a sentence; None if it can."""
        ...

    @abstractmethod
    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        """How to start it; the placement is applied to `spec`, and `port` is 0 if it reports its own."""
        ...

    def parse_port(self, line: str) -> int | None:
        """The port it listens on, if this line of its output has it."""
        return None

    def parse_progress(self, line: str) -> float | None:
        """The loaded part of the model, 0 to 1, if this line has it; the line may be incomplete."""
        return None

    def api(self, spec: ModelSpec) -> EngineApi:
        """The HTTP paths of its server."""
        return EngineApi()


_MEMBERS = dict.fromkeys(
    name for name in (*Engine.__annotations__, *vars(Engine)) if not name.startswith("_")
)


def check_engine(engine: Engine) -> Engine:
    """`engine` if it is valid; TypeError or ValueError with what is wrong."""
    if missing := [name for name in _MEMBERS if not hasattr(engine, name)]:
        raise TypeError(f"The engine lacks {', '.join(missing)}.")
    if check_engine_name(engine.name) == "auto":
        raise ValueError("'auto' is no name for an engine: it means that the yard chooses one")
    return engine


def minimal_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of our environment that an engine needs: no token, no credential."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in _PASSED
        or (name.startswith(_PASSED_PREFIXES) and not any(word in name for word in _SECRET))
    }
    spins = {} if "OMP_WAIT_POLICY" in passed else {"GOMP_SPINCOUNT": _SPIN_COUNT}
    # Without GGML_NO_BACKTRACE llama.cpp starts a debugger when it aborts.
    return {**spins, **passed, "GGML_NO_BACKTRACE": "1"}


def device_environment(placement: Placement) -> dict[str, str]:
    """The visible GPUs, by UUID: two equal cards are distinguished."""
    if not placement.devices:
        return {}
    visible = ",".join(gpu.device for gpu in placement.gpus)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}


def engine_environment(
    spec: ModelSpec, placement: Placement, own: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of an engine; later parts win: ours, its `own`, the model's, the placement's."""
    return {**minimal_environment(), **(own or {}), **spec.env, **device_environment(placement)}


ENGINES: PluginKind[Engine] = PluginKind("engine", "modelyard.engines", Engine, check_engine)
