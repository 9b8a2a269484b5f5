"""What the buckets say, as samples."""

import msgspec
import pytest

from schemas.devices import Device, DeviceKind
from schemas.instances import Instance, InstanceState, Node
from schemas.metrics import Sample
from schemas.placing import WaitingModel
from services.monitor.alerts.gather import of_devices, of_instances, of_nodes, of_waits
from tests.standins import instance


def by_name(samples: list[Sample], **labels: str) -> dict[str, float]:
    return {sample.name: sample.value for sample in samples if sample.labels == labels}


def test_a_sensor_that_does_not_answer_is_no_sample() -> None:
    device = Device(
        node="n",
        device="cpu",
        kind=DeviceKind.CPU,
        name="x",
        memory_total_bytes=4,
        memory_used_bytes=1,
        memory_free_bytes=3,
        sampled_at=1,
        temperature_c=50.0,
    )
    blind = msgspec.structs.replace(device, device="d", memory_total_bytes=0, temperature_c=None)
    samples = list(of_devices({"n.cpu": device, "n.d": blind}))
    assert by_name(samples, node="n", device="cpu") == {
        "yard_device_temperature_celsius": 50.0,
        "yard_device_memory_used_ratio": 0.25,
    }
    assert by_name(samples, node="n", device="d") == {}


def test_a_node_that_should_be_there_and_is_not_is_down() -> None:
    nodes = {"a": Node(node="a", version="1", started_at=1)}
    up = {sample.labels["node"]: sample.value for sample in of_nodes(nodes, {"a", "b"})}
    assert up == {"a": 1.0, "b": 0.0}
    assert [sample.labels["node"] for sample in of_nodes(nodes, set())] == ["a"]


@pytest.mark.parametrize(
    ("states", "is_open"),
    [
        ([(InstanceState.FAILED, True, 1.0)], 1.0),
        ([(InstanceState.FAILED, False, 1.0)], 0.0),
        ([(InstanceState.FAILED, True, 1.0), (InstanceState.READY, False, 2.0)], 0.0),
        ([(InstanceState.READY, False, 1.0), (InstanceState.FAILED, True, 2.0)], 1.0),
    ],
)
def test_a_crash_loop_is_what_the_newest_instance_says(
    states: list[tuple[InstanceState, bool, float]], is_open: float
) -> None:
    instances: dict[str, Instance] = {}
    for number, (state, circuit_open, at) in enumerate(states):
        each = instance(f"i{number}", "m", state, at=at)
        instances[each.instance] = msgspec.structs.replace(each, circuit_open=circuit_open, failures=number)
    found = by_name(list(of_instances(instances)), model="m")
    assert found["yard_model_circuit_open"] == is_open


def test_a_wait_grows_and_is_never_negative() -> None:
    waits = {"m": WaitingModel(model="m", reason="r", since=10.0)}
    assert [sample.value for sample in of_waits(waits, 70.0)] == [60.0]
    assert [sample.value for sample in of_waits(waits, 5.0)] == [0.0]
