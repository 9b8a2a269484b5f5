"""The host adapter: processor, memory, disk, and rates of counters."""

from pathlib import Path

from services.monitor.devices.host import CounterRates, HostAdapter, cpu_model, hottest, temperature_files


def test_used_and_free_memory_add_up() -> None:
    adapter = HostAdapter()
    first = adapter.sample()
    assert first.device == "cpu"
    assert first.memory_used_bytes + first.memory_free_bytes == first.memory_total_bytes
    assert first.utilization_pct is None, "it needs two samples"
    second = adapter.sample()
    assert second.utilization_pct is not None
    assert 0 <= second.utilization_pct <= 100


def test_the_host_has_disk_and_cores() -> None:
    host = HostAdapter().sample().host
    assert host is not None
    assert host.disk_total_bytes
    assert host.disk_used_bytes
    assert host.cores


def test_reset_and_new_counters_have_no_rate() -> None:
    rates = CounterRates()
    assert rates.at(10.0, {"a": 100, "b": 5}) == {}, "it needs two samples"
    assert rates.at(12.0, {"a": 300, "b": 1, "c": 9}) == {"a": 100.0}
    assert rates.at(12.0, {"a": 400}) == {}, "no time has passed"


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: A Fast One 9000\n")
    assert cpu_model(cpuinfo) == "A Fast One 9000"
    cpuinfo.write_text("processor\t: 0\n")
    assert cpu_model(cpuinfo)
    assert cpu_model(tmp_path / "missing")


def test_the_temperature_is_that_of_the_processor(tmp_path: Path) -> None:
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
    assert hottest(files) == 51.0, "a failing sensor affects no other"
    assert temperature_files(tmp_path / "nothing") == []
    assert hottest([]) is None
