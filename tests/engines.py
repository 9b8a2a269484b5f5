"""llama.cpp's programs for tests: from the environment, or built by `make engines`."""

import os
from pathlib import Path

import pytest

_BUILT = Path(__file__).parents[1] / ".engines" / "bin"


def llama_server() -> Path:
    """A llama-server with RPC; skips the test without one."""
    return _program("YARD_LLAMA_SERVER", "llama-server")


def rpc_server() -> Path:
    """The RPC server of the same build; skips the test without one."""
    return _program("YARD_RPC_SERVER", "ggml-rpc-server")


def _program(variable: str, name: str) -> Path:
    given = os.environ.get(variable)
    path = Path(given) if given else _BUILT / name
    if not path.is_file():
        pytest.skip(f"There is no {name}: run `make engines`, or set {variable}.")
    return path
