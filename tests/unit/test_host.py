"""The processor and the main memory."""

from pathlib import Path

from services.monitor.devices.host import HostAdapter, Rates, cpu_model, hottest, temperature_files


def test_the_host_is_one_device_whose_memory_adds_up() -> None:
    adapter = HostAdapter()
    first = adapter.sample()
    assert first.device == "cpu"
    assert first.memory_used_bytes + first.memory_free_bytes == first.memory_total_bytes
    assert first.utilization_pct is None, "there is nothing yet to measure from"
    second = adapter.sample()
    assert second.utilization_pct is not None
    assert 0 <= second.utilization_pct <= 100


def test_the_host_tells_its_disk_and_its_swap() -> None:
    host = HostAdapter().sample().host
    assert host is not None
    assert host.disk_total_bytes
    assert host.disk_used_bytes
    assert host.cores


def test_rates_are_of_counters_that_only_grow() -> None:
    rates = Rates()
    assert rates.at(10.0, {"a": 100, "b": 5}) == {}, "there is nothing yet to measure from"
    assert rates.at(12.0, {"a": 300, "b": 1, "c": 9}) == {"a": 100.0}
    assert rates.at(12.0, {"a": 400}) == {}, "no time has passed"


def test_a_processor_is_called_by_its_model_or_by_something(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: A Fast One 9000\n")
    assert cpu_model(cpuinfo) == "A Fast One 9000"
    cpuinfo.write_text("processor\t: 0\n")
    assert cpu_model(cpuinfo)
    assert cpu_model(tmp_path / "missing")


def test_the_temperature_is_that_of_the_processor_not_of_a_disk(tmp_path: Path) -> None:
    chips = {"hwmon0": "nvme", "hwmon1": "acpitz", "hwmon2": "coretemp"}
    for chip, name in chips.items():
        folder = tmp_path / "sys/class/hwmon" / chip
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "temp1_input").write_text("80000\n" if name == "nvme" else "51000\n")
    (tmp_path / "sys/class/hwmon/hwmon2/temp2_input").write_text("54000\n")
    files = temperature_files(tmp_path)
    assert hottest(files) == 54.0
    (tmp_path / "sys/class/hwmon/hwmon2/temp2_input").write_text("broken\n")
    assert hottest(files) == 51.0, "a sensor that fails hides no other"
    assert temperature_files(tmp_path / "nothing") == []
    assert hottest([]) is None
