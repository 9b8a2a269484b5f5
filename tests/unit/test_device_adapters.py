"""Adapters: found, read again, simulated, on their own threads, and never in the way of the others."""

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
from schemas.instances import Instance
from services.monitor.devices.sampling import Sampler
from services.monitor.devices.simulated import SimulatedAdapter
from services.monitor.devices.tenants import Tenants
from tests.unit.test_metrics_gather import instance

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


def test_the_built_in_adapters_are_the_entry_points() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    discovered = ADAPTERS.discover(Path("/nowhere"))
    assert (sorted(discovered.plugins), discovered.errors) == (sorted(project["entry-points"][GROUP]), ())
    modules = {type(adapter).__module__.split(".")[0] for adapter in discovered.plugins.values()}
    assert modules == {"services"}


def test_a_plugin_is_an_adapter_like_any_other_and_is_read_again_when_it_changes(folder: Path) -> None:
    write(folder / "mine.py", PLUGIN)
    first = ADAPTERS.discover(folder).plugins["mine"]
    assert ADAPTERS.discover(folder).plugins["mine"] is first, "not read without need"
    write(folder / "mine.py", PLUGIN.replace("VERSION = 1", "VERSION = 2"))
    device = ADAPTERS.discover(folder).plugins["mine"].sample()
    assert isinstance(device, Device)
    assert device.memory_used_bytes == 2
    (folder / "mine.py").unlink()
    assert "mine" not in ADAPTERS.discover(folder).plugins


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def", "SyntaxError"),
        ("x = 1", "define `adapter`"),
        (PLUGIN.replace("def sample", "def other"), "abstract"),
        (PLUGIN.replace('"mine"', '"my adapter"'), "no name for an adapter"),
        (PLUGIN.replace('"mine"', '"nvml"'), "is taken"),
        ("class adapter:\n    name = 'mine'\n", "lacks simulated, open, sample, close"),
    ],
)
def test_a_broken_plugin_is_left_out_with_its_reason(folder: Path, text: str, word: str) -> None:
    write(folder / "broken.py", text)
    write(folder / "mine.py", PLUGIN)
    found = ADAPTERS.discover(folder)
    assert "mine" in found.plugins
    assert [one.problem for one in found.errors if word in one.problem]


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
def test_a_file_of_devices_is_read_in_three_formats_and_marked(tmp_path: Path, name: str, text: str) -> None:
    (device,) = simulated(write(tmp_path / name, text)).sample()
    assert (device.device, device.memory_free_bytes, device.simulated) == ("SIM-0", 5, True)


def test_a_list_of_numbers_is_told_one_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = simulated(write(tmp_path / "d.toml", TOML + "power_w = [10, 20]\nthrottled_by = ['thermal']\n"))
    told = []
    for second in (100.0, 101.2, 102.0):
        monkeypatch.setattr("services.monitor.devices.simulated.time.time", lambda second=second: second)
        told.append(adapter.sample()[0].power_w)
    assert told == [10.0, 20.0, 10.0]


def test_a_changed_file_is_read_again_and_a_broken_one_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "d.toml", TOML)
    adapter = simulated(path)
    assert len(adapter.sample()) == 1
    write(path, TOML + TOML.replace("SIM-0", "SIM-1"))
    assert len(adapter.sample()) == 2
    for text, word in (
        (TOML + TOML, "twice"),
        (TOML + "heat = 4\n", "no field heat"),
        (TOML.replace('"gpu"', '"tpu"'), "tpu"),
        (TOML.replace("SIM-0", "SIM 0"), "subject token"),
        (TOML.replace("memory_used_bytes = ", "memory_used_bytes = 'much' # "), "memory_used_bytes"),
        ("devices = 3", "array"),
        ("[[", "Invalid"),
    ):
        write(path, text)
        with pytest.raises(ValueError, match=word):
            adapter.sample()
    path.unlink()
    with pytest.raises(OSError, match=r"d\.toml"):
        adapter.sample()


def test_without_a_file_nothing_is_simulated() -> None:
    adapter = SimulatedAdapter()
    adapter.open(load({}))
    assert adapter.sample() == []
    with pytest.raises(SettingsError, match="must end in"):
        load({"YARD_SIMULATED_DEVICES": "/tmp/devices.ini"})


class Scripted(DeviceAdapter):
    """Does as told, one after the other, and then the last again."""

    name = "scripted"

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.closed = threading.Event()

    def sample(self) -> Device:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step()  # type: ignore[return-value]  # what a stranger's adapter returns, nobody knows

    def close(self) -> None:
        self.closed.set()


def card(**changes: object) -> Device:
    return msgspec.convert({**CARD, "memory_free_bytes": 5, **changes}, Device)


class Taken:
    """What a sampler gave, until there are so many."""

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


def sampled(adapter: DeviceAdapter, count: int) -> Taken:
    taken = Taken(count)
    Sampler(adapter, load({"YARD_NODE": "n1"}), taken, period_s=0.01).start()
    taken.wait()
    return taken


def test_samples_get_node_and_time_and_the_adapter_is_closed_in_the_end() -> None:
    adapter = Scripted(card)
    taken = sampled(adapter, 2)
    (device,) = taken.all[0]
    assert (device.node, device.sampled_at > 0, device.simulated) == ("n1", True, False)
    assert adapter.closed.wait(TIMEOUT_S)


def test_an_adapter_that_is_simulated_marks_what_it_tells() -> None:
    adapter = Scripted(card)
    adapter.simulated = True
    assert sampled(adapter, 1).all[0][0].simulated


def test_an_adapter_that_fails_or_tells_nonsense_says_why_and_is_asked_again() -> None:
    def fail() -> Device:
        raise RuntimeError("the bus is gone")

    def leave() -> Device:
        raise SystemExit("no licence")

    adapter = Scripted(fail, leave, lambda: ["nonsense"], lambda: card(device="not a token"), card)
    taken = sampled(adapter, 5)
    assert [len(devices) for devices in taken.all] == [0, 0, 0, 0, 1]
    words = ("bus is gone", "no licence", "no Device", "subject token")
    wrong = zip(words, taken.problems[:4], strict=True)
    assert all(word in (problem or "") for word, problem in wrong)
    assert taken.problems[4] is None


def test_an_adapter_that_hangs_keeps_no_process_from_its_end() -> None:
    program = """
import time
from modelyard.host.settings import load
from modelyard.plugins import DeviceAdapter
from services.monitor.devices.sampling import Sampler

class Hangs(DeviceAdapter):
    name = "hangs"
    def sample(self):
        print("hangs", flush=True)
        time.sleep(3600)

sampler = Sampler(Hangs(), load({}), lambda *_: None, period_s=0.01)
sampler.start()
while sampler._begun_at is None:
    time.sleep(0.01)
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "hangs"), ran.stderr


def test_processes_are_named_by_the_engine_that_they_descend_from() -> None:
    own, parent = os.getpid(), os.getppid()
    known: dict[str, Instance] = {"i1": instance(engine_pid=parent)}
    tenants = Tenants("n1", known)
    processes = (DeviceProcess(pid=parent), DeviceProcess(pid=own), DeviceProcess(pid=2**22 + 1))
    device = msgspec.structs.replace(card(kind=DeviceKind.GPU), node="n1", processes=processes)

    def named() -> list[str | None]:
        return [one.instance for one in tenants.named([device])[0].processes]

    assert named() == ["i1", "i1", None]
    known["i1"] = instance(engine_pid=parent, node="n2")
    assert named() == [None, None, None], "a process of another machine has the same number by chance"
