"""What an engine is to a runner: how to start its server and how to read where it listens."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from schemas.record import Record

_PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "GGML_", "LLAMA_", "OMP_", "ONEAPI_", "ZE_", "VK_")


class EngineProblem(Exception):
    """The engine cannot serve this model here; the message says why."""


class Files(Record):
    """A model's files, resolved and known to be inside the store."""

    model: Path
    mmproj: Path | None = None


class ServerCommand(Record):
    """A program to start: an argument list, never a shell line."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Engine(Protocol):
    """One kind of server process that speaks HTTP on loopback."""

    name: str

    def offer(self, settings: Settings) -> EngineOffer:
        """Whether it can be used on this node."""
        ...

    def command(self, spec: ModelSpec, files: Files, settings: Settings) -> ServerCommand:
        """How to start it for this model on a free port of its own choice."""
        ...

    def port(self, line: str) -> int | None:
        """The port it listens on, if this line of its output says so."""
        ...


def minimal_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What an engine needs of our environment and no more: no token, no credential."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES) or name.startswith("LC_")
    }
    # Without it llama.cpp starts a debugger when it aborts.
    return {**passed, "GGML_NO_BACKTRACE": "1"}
