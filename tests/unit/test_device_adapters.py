"""Device adapters: plugins, simulated devices, samplers, and owners of processes."""

import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelyard.host.settings import SettingsError, load
from modelyard.plugins import DeviceAdapter
from modelyard.plugins.devices import ADAPTERS
from schemas.devices import Device, DeviceKind, DeviceProcess
from schemas.instances import Instance, InstanceState
from services.monitor.devices.publisher import ProcessOwners
from services.monitor.devices.sampler import Sampler
from services.monitor.devices.simulated import SimulatedAdapter
from tests import standins

PLUGIN = """
from modelyard.plugins import Device, DeviceAdapter, DeviceKind


class Mine(DeviceAdapter):
    name = "mine"

    def sample(self):
        return Device(device="npu-0", kind=DeviceKind.GPU, name="NPU", memory_total_bytes=8,
                      memory_used_bytes=VERSION, memory_free_bytes=4)


VERSION = 1
"""
CARD = {"device": "SIM-0", "kind": "gpu", "name": "Card", "memory_total_bytes": 8, "memory_used_bytes": 3}
TIMEOUT_S = 20.0
GROUP = "modelyard.devices"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins" / "devices"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_built_in_adapters_are_entry_points() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    discovered = ADAPTERS.discover(Path("/nowhere"))
    assert (sorted(discovered.plugins), discovered.errors) == (sorted(project["entry-points"][GROUP]), ())
    modules = {type(adapter).__module__.split(".")[0] for adapter in discovered.plugins.values()}
    assert modules == {"services"}


def test_a_changed_plugin_is_loaded_again(folder: Path) -> None:
    write(folder / "mine.py", PLUGIN)
    first = ADAPTERS.discover(folder).plugins["mine"]
    assert ADAPTERS.discover(folder).plugins["mine"] is first, "not loaded again without a change"
    write(folder / "mine.py", PLUGIN.replace("VERSION = 1", "VERSION = 2"))
    device = ADAPTERS.discover(folder).plugins["mine"].sample()
    assert isinstance(device, Device)
    assert device.memory_used_bytes == 2
    (folder / "mine.py").unlink()
    assert "mine" not in ADAPTERS.discover(folder).plugins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def", "SyntaxError"),
        ("x = 1", "define `adapter`"),
        (PLUGIN.replace("def sample", "def other"), "abstract"),
        (PLUGIN.replace('"mine"', '"my adapter"'), "no name for an adapter"),
        (PLUGIN.replace('"mine"', '"nvml"'), "is taken"),
        ("class adapter:\n    name = 'mine'\n", "lacks simulated, open, sample, close"),
    ],
)
def test_a_broken_plugin_is_reported_with_its_problem(folder: Path, text: str, message: str) -> None:
    write(folder / "broken.py", text)
    write(folder / "mine.py", PLUGIN)
    discovered = ADAPTERS.discover(folder)
    assert "mine" in discovered.plugins
    assert [error.problem for error in discovered.errors if message in error.problem]


def simulated(path: Path) -> SimulatedAdapter:
    adapter = SimulatedAdapter()
    adapter.open(load({"YARD_SIMULATED_DEVICES": str(path)}))
    return adapter


TOML = """
[[devices]]
device = "SIM-0"
kind = "gpu"
name = "Card"
memory_total_bytes = 8
memory_used_bytes = 3
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.toml", TOML),
        ("d.json", msgspec.json.encode({"devices": [CARD]}).decode()),
        (
            "d.yaml",
            "devices: [{device: SIM-0, kind: gpu, name: Card, memory_total_bytes: 8, memory_used_bytes: 3}]",
        ),
    ],
)
def test_simulated_devices_from_three_formats(tmp_path: Path, name: str, text: str) -> None:
    (device,) = simulated(write(tmp_path / name, text)).sample()
    assert (device.device, device.memory_free_bytes, device.simulated) == ("SIM-0", 5, True)


def test_a_list_of_numbers_is_repeated_by_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = simulated(write(tmp_path / "d.toml", TOML + "power_w = [10, 20]\nthrottled_by = ['thermal']\n"))
    power = []
    for second in (100.0, 101.2, 102.0):
        monkeypatch.setattr("services.monitor.devices.simulated.time.time", lambda second=second: second)
        power.append(adapter.sample()[0].power_w)
    assert power == [10.0, 20.0, 10.0]


def test_a_changed_file_is_read_again_and_an_invalid_one_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.toml", TOML)
    adapter = simulated(path)
    assert len(adapter.sample()) == 1
    write(path, TOML + TOML.replace("SIM-0", "SIM-1"))
    assert len(adapter.sample()) == 2
    for text, message in (
        (TOML + TOML, "twice"),
        (TOML + "heat = 4\n", "no field heat"),
        (TOML.replace('"gpu"', '"tpu"'), "tpu"),
        (TOML.replace("SIM-0", "SIM 0"), "subject token"),
        (TOML.replace("memory_used_bytes = ", "memory_used_bytes = 'much' # "), "memory_used_bytes"),
        ("devices = 3", "array"),
        ("[[", "Invalid"),
    ):
        write(path, text)
        with pytest.raises(ValueError, match=message):
            adapter.sample()
    path.unlink()
    with pytest.raises(OSError, match=r"d\.toml"):
        adapter.sample()


def test_without_a_file_there_are_no_simulated_devices() -> None:
    adapter = SimulatedAdapter()
    adapter.open(load({}))
    assert adapter.sample() == []
    with pytest.raises(SettingsError, match="must end in"):
        load({"YARD_SIMULATED_DEVICES": "/tmp/devices.ini"})


class Scripted(DeviceAdapter):
    """Runs its steps one after the other, and then repeats the last."""

    name = "scripted"

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.closed = threading.Event()

    def sample(self) -> Device:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step()  # type: ignore[return-value]  # a plugin may return anything

    def close(self) -> None:
        self.closed.set()


def card(**changes: object) -> Device:
    return msgspec.convert({**CARD, "memory_free_bytes": 5, **changes}, Device)


class Recorder:
    """Records the samples of a sampler and stops it after `count`."""

    def __init__(self, count: int) -> None:
        self.all: list[list[Device]] = []
        self.problems: list[str | None] = []
        self._count = count
        self._enough = threading.Event()

    def __call__(self, sampler: Sampler, devices: list[Device]) -> None:
        self.all.append(devices)
        self.problems.append(sampler.problem())
        if len(self.all) == self._count:
            sampler.stop()
            self._enough.set()

    def wait(self) -> None:
        assert self._enough.wait(TIMEOUT_S)


def sampled(adapter: DeviceAdapter, count: int) -> Recorder:
    recorder = Recorder(count)
    Sampler(adapter, load({"YARD_NODE": "n1"}), recorder, period_s=0.01).start()
    recorder.wait()
    return recorder


def test_samples_get_node_and_time_and_the_adapter_is_closed() -> None:
    adapter = Scripted(card)
    recorder = sampled(adapter, 2)
    (device,) = recorder.all[0]
    assert (device.node, device.sampled_at > 0, device.simulated) == ("n1", True, False)
    assert adapter.closed.wait(TIMEOUT_S)


def test_devices_of_a_simulated_adapter_are_marked() -> None:
    adapter = Scripted(card)
    adapter.simulated = True
    assert sampled(adapter, 1).all[0][0].simulated


def test_a_failing_adapter_has_a_problem_and_is_sampled_again() -> None:
    def fail() -> Device:
        raise RuntimeError("the bus is closed")

    def leave() -> Device:
        raise SystemExit("no licence")

    adapter = Scripted(fail, leave, lambda: ["invalid"], lambda: card(device="not a token"), card)
    recorder = sampled(adapter, 5)
    assert [len(devices) for devices in recorder.all] == [0, 0, 0, 0, 1]
    messages = ("bus is closed", "no licence", "not a Device", "subject token")
    problems = zip(messages, recorder.problems[:4], strict=True)
    assert all(message in (problem or "") for message, problem in problems)
    assert recorder.problems[4] is None


def test_a_hung_adapter_does_not_keep_the_process_alive() -> None:
    program = """
import time
from modelyard.host.settings import load
from modelyard.plugins import DeviceAdapter
from services.monitor.devices.sampler import Sampler

class Hangs(DeviceAdapter):
    name = "hangs"
    def sample(self):
        print("hangs", flush=True)
        time.sleep(3600)

sampler = Sampler(Hangs(), load({}), lambda *_: None, period_s=0.01)
sampler.start()
while sampler._called_at is None:
    time.sleep(0.01)
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "hangs"), ran.stderr


def test_processes_are_attributed_to_the_instance_of_their_ancestor() -> None:
    own, parent = os.getpid(), os.getppid()

    def instance(node: str) -> Instance:
        record = standins.instance("i1", "m", InstanceState.READY)
        return msgspec.structs.replace(record, node=node, engine_pid=parent)

    instances = {"i1": instance("n1")}
    owners = ProcessOwners("n1", instances)
    processes = (DeviceProcess(pid=parent), DeviceProcess(pid=own), DeviceProcess(pid=2**22 + 1))
    device = msgspec.structs.replace(card(kind=DeviceKind.GPU), node="n1", processes=processes)

    def attributed() -> list[str | None]:
        return [process.instance for process in owners.attribute([device])[0].processes]

    assert attributed() == ["i1", "i1", None]
    instances["i1"] = instance("n2")
    assert attributed() == [None, None, None], "the process id belongs to another node"
