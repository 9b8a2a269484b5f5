"""llama.cpp's RPC server as a program of this node."""

import shutil
from pathlib import Path

from modelyard.host.settings import Settings
from schemas.profiles import CPU
from schemas.workers import RpcOffer
from services.supervisor.engines.base import ServerCommand, minimal_environment
from services.supervisor.engines.llama_cpp import find_server, server_version

NAMES = ("ggml-rpc-server", "rpc-server")
"""What it is called now, and was before."""
_MISSING = "There is no ggml-rpc-server beside llama-server or on PATH; set YARD_RPC_SERVER to one."


def offer(settings: Settings) -> RpcOffer:
    """What this node can hold for others."""
    program = find_program(settings)
    return RpcOffer(
        host=settings.rpc_host,
        version=program_version(program) if program else None,
        problem=None if program else _MISSING,
    )


def find_program(settings: Settings) -> Path | None:
    """YARD_RPC_SERVER, else the one beside llama-server, else the one on PATH."""
    if settings.rpc_server is not None:
        return settings.rpc_server
    server = find_server(settings)
    beside = [server.resolve().parent / name for name in NAMES] if server else []
    on_path = [Path(found) for name in NAMES if (found := shutil.which(name))]
    return next((path for path in (*beside, *on_path) if path.is_file()), None)


def program_version(program: Path) -> str | None:
    """It does not say its own, but llama-server beside it is of the same build."""
    server = program.resolve().parent / "llama-server"
    return server_version(server, server.stat().st_mtime) if server.is_file() else None


def command(program: Path, port: int, device: str) -> ServerCommand:
    """It computes on one device alone: main memory, or the only GPU that it may see."""
    argv = [str(program), "--host", "127.0.0.1", "--port", str(port)]
    if device == CPU:
        argv += ["--device", "CPU"]
    visible = "" if device == CPU else device
    own = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    return ServerCommand(argv=tuple(argv), env={**minimal_environment(), **own})
