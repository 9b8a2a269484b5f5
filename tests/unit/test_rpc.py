"""Workers: their program, the owner of a connection, the options of a node for profiles with workers."""

import os
from pathlib import Path

import msgspec
import pytest

from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from modelyard.host.settings import Settings, load
from schemas.errors import Conflict
from schemas.instances import Reserved
from schemas.models import ModelSpec
from schemas.placement import NodeDevice
from schemas.profiles import MAX_WORKERS, DeviceNeed, Profile, WorkerNeed
from services.supervisor.node.commands import placement
from services.supervisor.node.device_memory import Reservations
from services.supervisor.node.options import options
from services.supervisor.rpc.server import find_program, rpc_command, rpc_offer
from services.supervisor.rpc.worker_set import socket_owners

MIB = 1024**2
CPU = NodeDevice(device="cpu", name="main memory", memory_bytes=4096 * MIB)
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A001 0100007F:B002 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 20 0 0 10 -1
   1: 0100007F:B002 0100007F:A001 01 00000000:00000000 00:00000000 00000000     7        0 2 1 0 20 0 0 10 -1
   2: 0200007F:A001 0100007F:B002 01 00000000:00000000 00:00000000 00000000    99        0 3 1 0 20 0 0 10 -1
"""


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    server = executable(tmp_path / "llama-server")
    return load({"YARD_HOME": str(tmp_path), "YARD_NODE": "n", "YARD_LLAMA_SERVER": str(server)})


@pytest.fixture
def spread(settings: Settings) -> ModelSpec:
    write_reciter(settings.models / "m.gguf", DEMO_SENTENCE)
    profile = Profile(name="s", devices=(DeviceNeed(device="cpu"),), workers=(WorkerNeed(),))
    return ModelSpec(name="m", path="m.gguf", n_ctx=512, profiles=(profile,))


def test_the_owner_of_a_connection_is_read_from_the_kernels_table() -> None:
    assert socket_owners(TABLE, 0xA001, 0xB002) == {1000}
    assert socket_owners(TABLE, 0xB002, 0xA001) == {7}
    assert socket_owners(TABLE, 1, 2) == set()


def test_the_program_beside_llama_server_is_used(settings: Settings) -> None:
    old = executable(settings.home / "rpc-server")
    assert find_program(settings) == old
    new = executable(settings.home / "ggml-rpc-server")
    assert find_program(settings) == new
    named = msgspec.structs.replace(settings, rpc_server=Path("/bin/sh"))
    assert find_program(named) == Path("/bin/sh")


def test_a_node_without_the_program_names_the_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "YARD_RPC_SERVER" in (rpc_offer(settings).problem or "")


def test_only_its_own_device_is_visible_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_TOKEN", "secret")
    on_cpu, on_gpu = (rpc_command(Path("/rpc"), 7, device) for device in ("cpu", "GPU-a"))
    assert on_cpu.argv == ("/rpc", "--host", "127.0.0.1", "--port", "7", "--device", "CPU")
    assert on_cpu.env["CUDA_VISIBLE_DEVICES"] == ""
    assert on_gpu.env["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert "secret" not in os.fspath(str(on_gpu.env))


def test_an_option_has_the_needs_of_the_node_and_its_workers(settings: Settings, spread: ModelSpec) -> None:
    (option,) = options(spread, settings, [CPU], {}).options
    (worker,) = option.workers
    assert (worker.node, worker.device) == ("any", "cpu")
    assert worker.memory_bytes > 32 * MIB
    assert [(need.device, need.node) for need in option.needs] == [("cpu", None)]
    assert sum(option.split) == 3, "two layers and the output"
    placed = placement(spread, option, (CPU,))
    assert (placed.workers, placed.split) == (option.workers, option.split)


def test_the_memory_of_a_worker_in_a_profile_is_reserved(settings: Settings, spread: ModelSpec) -> None:
    given = msgspec.structs.replace(spread.profiles[0], workers=(WorkerNeed(memory_mib=700),))
    (option,) = options(msgspec.structs.replace(spread, profiles=(given,)), settings, [CPU], {}).options
    assert option.workers[0].memory_bytes == 700 * MIB


@pytest.mark.parametrize(
    ("engine", "workers", "sentence"),
    [
        ("embedded", (WorkerNeed(),), "only llama.cpp"),
        ("llama.cpp", (WorkerNeed(memory_mib=1),), "cannot hold one layer"),
        ("llama.cpp", (WorkerNeed(),) * 3, "too few for 4 devices"),
    ],
)
def test_an_impossible_spread_has_a_reason(
    settings: Settings, spread: ModelSpec, engine: str, workers: tuple[WorkerNeed, ...], sentence: str
) -> None:
    profile = msgspec.structs.replace(spread.profiles[0], workers=workers)
    spec = msgspec.structs.replace(spread, engine=engine, profiles=(profile,))
    impossible = options(spec, settings, [CPU], {})
    assert impossible.options == ()
    assert sentence in (impossible.problem or "")
    usual = msgspec.structs.replace(spec, profiles=(profile, Profile(name="alone")))
    assert [option.profile for option in options(usual, settings, [CPU], {}).options] == ["alone"]


def test_the_reservations_of_a_node_exclude_its_workers_on_others() -> None:
    reservations = Reservations()
    here = Reserved(device="cpu", predicted_bytes=4096 * MIB)
    there = Reserved(device="cpu", predicted_bytes=9000 * MIB, node="b")
    reservations.reserve("i", (here, there), [CPU])
    assert reservations.total() == {"cpu": 4096 * MIB}
    with pytest.raises(Conflict):
        reservations.reserve("j", (Reserved(device="cpu", predicted_bytes=1),), [CPU])


@pytest.mark.parametrize("wrong", [{"node": ""}, {"device": ""}, {"memory_mib": 0}])
def test_a_worker_needs_a_node_a_device_and_some_memory(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, WorkerNeed)


def test_the_number_of_workers_is_limited() -> None:
    with pytest.raises(ValueError, match="at most"):
        Profile(workers=(WorkerNeed(),) * (MAX_WORKERS + 1))
