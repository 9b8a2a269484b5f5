"""llama.cpp's RPC server: its program on this node, its command, and the HELLO of its protocol."""

import asyncio
import contextlib
import shutil
from pathlib import Path

from modelyard.host.settings import Settings
from modelyard.plugins import ServerCommand, minimal_environment
from schemas.instances import RpcOffer
from schemas.profiles import CPU
from services.supervisor.engines.llama_cpp import find_server, server_version

PROGRAMS = ("ggml-rpc-server", "rpc-server")
"""The current name and the former one."""
_MISSING = "There is no ggml-rpc-server beside llama-server or on PATH; set YARD_RPC_SERVER to one."
_HELLO = 14
"""The number of the command, which is the same in every version."""
_CAPS_BYTES = 24
_POLL_S = 0.02


class NoRpcServer(Exception):
    """There is no RPC server, or an incompatible one."""


def rpc_offer(settings: Settings) -> RpcOffer:
    program = find_program(settings)
    return RpcOffer(
        host=settings.rpc_host,
        version=program_version(program) if program else None,
        problem=None if program else _MISSING,
    )


def find_program(settings: Settings) -> Path | None:
    """YARD_RPC_SERVER, else the program beside llama-server, else the one on PATH."""
    if settings.rpc_server is not None:
        return settings.rpc_server
    server = find_server(settings)
    beside = [server.resolve().parent / name for name in PROGRAMS] if server else []
    on_path = [Path(path) for name in PROGRAMS if (path := shutil.which(name))]
    return next((path for path in (*beside, *on_path) if path.is_file()), None)


def program_version(program: Path) -> str | None:
    """The version of the llama-server beside it, which is of the same build; it prints none itself."""
    server = program.resolve().parent / "llama-server"
    return server_version(server, server.stat().st_mtime) if server.is_file() else None


def rpc_command(program: Path, port: int, device: str) -> ServerCommand:
    """A server on one device only: main memory, or the only GPU that is visible to it."""
    argv = [str(program), "--host", "127.0.0.1", "--port", str(port)]
    if device == CPU:
        argv += ["--device", "CPU"]
    visible = "" if device == CPU else device
    own = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    return ServerCommand(argv=tuple(argv), env={**minimal_environment(), **own})


async def protocol_version(port: int) -> str:
    """The protocol version of the server on this loopback port; waits until it listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return await _hello(port)
        await asyncio.sleep(_POLL_S)


async def _hello(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(bytes([_HELLO]) + _CAPS_BYTES.to_bytes(8, "little") + bytes(_CAPS_BYTES))
        size = int.from_bytes(await reader.readexactly(8), "little")
        if not 3 <= size <= 4096:
            raise NoRpcServer("It does not answer like llama.cpp's RPC server.")
        major, minor, patch, *_ = await reader.readexactly(size)
        return f"{major}.{minor}.{patch}"
    except asyncio.IncompleteReadError as error:
        raise NoRpcServer("It does not answer like a current RPC server of llama.cpp.") from error
    finally:
        writer.close()
