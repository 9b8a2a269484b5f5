"""The processor and the main memory."""

from pathlib import Path
from types import SimpleNamespace

from services.monitor.devices.host import HostAdapter, cpu_model, hottest


def test_the_host_is_one_device_whose_memory_adds_up() -> None:
    adapter = HostAdapter("n1")
    (first,) = adapter.sample(1.0)
    assert (first.node, first.device, first.sampled_at) == ("n1", "cpu", 1.0)
    assert first.memory_used_bytes + first.memory_free_bytes == first.memory_total_bytes
    assert first.utilization_pct is None, "there is nothing yet to measure from"
    (second,) = adapter.sample(2.0)
    assert second.utilization_pct is not None
    assert 0 <= second.utilization_pct <= 100


def test_a_processor_is_called_by_its_model_or_by_something(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: A Fast One 9000\n")
    assert cpu_model(cpuinfo) == "A Fast One 9000"
    cpuinfo.write_text("processor\t: 0\n")
    assert cpu_model(cpuinfo)
    assert cpu_model(tmp_path / "missing")


def test_the_temperature_is_that_of_the_processor_not_of_a_disk() -> None:
    readings = {
        "nvme": [SimpleNamespace(current=80.0)],
        "coretemp": [SimpleNamespace(current=51.0), SimpleNamespace(current=54.0)],
    }
    assert hottest(readings) == 54.0
    assert hottest({"nvme": readings["nvme"]}) is None
    assert hottest({}) is None
