"""Samples of devices and of the machine around them."""

from collections.abc import Iterator

from schemas.devices import Device, Host
from schemas.metrics import Sample

_SENSORS = (
    ("yard_device_memory_total_bytes", "memory_total_bytes", 1.0),
    ("yard_device_memory_used_bytes", "memory_used_bytes", 1.0),
    ("yard_device_memory_free_bytes", "memory_free_bytes", 1.0),
    ("yard_device_utilization_ratio", "utilization_pct", 0.01),
    ("yard_device_temperature_celsius", "temperature_c", 1.0),
    ("yard_device_power_watts", "power_w", 1.0),
    ("yard_device_power_limit_watts", "power_limit_w", 1.0),
    ("yard_device_fan_ratio", "fan_pct", 0.01),
    ("yard_device_clock_hertz", "clock_mhz", 1e6),
    ("yard_device_memory_clock_hertz", "memory_clock_mhz", 1e6),
    ("yard_device_pcie_generation", "pcie_generation", 1.0),
    ("yard_device_pcie_lanes", "pcie_width", 1.0),
    ("yard_device_pcie_receive_bytes_per_second", "pcie_receive_bytes_s", 1.0),
    ("yard_device_pcie_transmit_bytes_per_second", "pcie_transmit_bytes_s", 1.0),
)
_HOST = (
    ("yard_host_swap_total_bytes", "swap_total_bytes"),
    ("yard_host_swap_used_bytes", "swap_used_bytes"),
    ("yard_host_disk_total_bytes", "disk_total_bytes"),
    ("yard_host_disk_used_bytes", "disk_used_bytes"),
    ("yard_host_disk_free_bytes", "disk_free_bytes"),
    ("yard_host_disk_read_bytes_per_second", "disk_read_bytes_s"),
    ("yard_host_disk_write_bytes_per_second", "disk_write_bytes_s"),
    ("yard_host_network_receive_bytes_per_second", "network_receive_bytes_s"),
    ("yard_host_network_transmit_bytes_per_second", "network_transmit_bytes_s"),
    ("yard_host_load1", "load1"),
    ("yard_host_cores", "cores"),
)


def device_samples(device: Device) -> Iterator[Sample]:
    """Everything that its sensors tell; one that does not answer has no sample."""
    labels = {"node": device.node, "device": device.device}
    described = {
        **labels,
        "kind": device.kind.value,
        "name": device.name,
        "simulated": "true" if device.simulated else "false",
    }
    yield Sample(name="yard_device_info", value=1.0, labels=described)
    for name, field, factor in _SENSORS:
        value = getattr(device, field)
        if value is not None:
            yield Sample(name=name, value=value * factor, labels=labels)
    if device.memory_total_bytes:
        used = device.memory_used_bytes / device.memory_total_bytes
        yield Sample(name="yard_device_memory_used_ratio", value=used, labels=labels)
    yield Sample(name="yard_device_processes", value=float(len(device.processes)), labels=labels)
    for reason in device.throttled_by:
        yield Sample(name="yard_device_throttled", value=1.0, labels={**labels, "reason": reason})
    if device.host is not None:
        yield from host_samples(device.host, device.node)


def host_samples(host: Host, node: str) -> Iterator[Sample]:
    labels = {"node": node}
    for name, field in _HOST:
        value = getattr(host, field)
        if value is not None:
            yield Sample(name=name, value=float(value), labels=labels)
    if host.disk_total_bytes and host.disk_free_bytes is not None:
        used = 1 - host.disk_free_bytes / host.disk_total_bytes
        yield Sample(name="yard_host_disk_used_ratio", value=used, labels=labels)


def tenant_samples(device: Device, models: dict[str, str]) -> Iterator[Sample]:
    """What each instance has of a device; `models` has the model of every instance."""
    taken: dict[str, int] = {}
    for process in device.processes:
        if process.instance in models and process.memory_bytes is not None:
            taken[process.instance] = taken.get(process.instance, 0) + process.memory_bytes
    for instance, memory_bytes in taken.items():
        labels = {"node": device.node, "device": device.device, "instance_id": instance}
        labels["model"] = models[instance]
        yield Sample(name="yard_device_instance_memory_bytes", value=float(memory_bytes), labels=labels)
