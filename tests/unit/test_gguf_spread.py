"""Which layers go where, and what they take: as llama-server itself reported for the same arguments."""

import pytest

from modelyard.files.gguf.estimate import CPU_OVERHEAD_BYTES, GPU_OVERHEAD_BYTES, RunOptions
from modelyard.files.gguf.header import Header
from modelyard.files.gguf.spread import WorkerDevice, spread_layers
from tests.unit.gguf_headers import header

MIB = 1024 * 1024
USE = RunOptions(n_ctx=8192, n_parallel=2, n_outputs=2)
ANY = WorkerDevice(device="cpu")


def model(n_layer: int = 8) -> Header:
    return header("llama", {"feed_forward_length": 2048, "vocab_size": 420}, n_layer=n_layer)


def given(mib: int, device: str = "cpu") -> WorkerDevice:
    return WorkerDevice(device=device, most_bytes=mib * MIB)


@pytest.mark.parametrize(
    ("parts", "own", "layers"),
    [
        ([ANY], ["cpu"], (4, 5)),
        ([ANY], ["gpu0"], (4, 5)),
        ([ANY, ANY], ["cpu"], (3, 3, 3)),
        ([ANY], ["gpu0", "gpu1"], (3, 3, 3)),
        ([ANY] * 8, ["cpu"], (1,) * 9),
        ([given(10_000)], ["cpu"], (8, 1)),
        ([given(10_000), given(10_000)], ["cpu"], (7, 1, 1)),
    ],
)
def test_every_device_gets_layers_and_own_devices_the_rest(
    parts: list[WorkerDevice], own: list[str], layers: tuple[int, ...]
) -> None:
    spread = spread_layers(model(), USE, parts, own)
    assert spread.layers == layers
    assert sum(spread.layers) == 9, "eight layers and the output"


def test_a_worker_gets_as_many_layers_as_fit() -> None:
    spreads = {mib: spread_layers(model(), USE, [given(mib)], ["cpu"]) for mib in range(68, 110)}
    sizes = {spread.layers[0]: spread.workers_bytes[0] for spread in spreads.values()}
    assert len(sizes) > 4
    for mib, spread in spreads.items():
        assert spread.workers_bytes[0] <= mib * MIB
        assert sizes.get(spread.layers[0] + 1, 2**40) > mib * MIB


def test_layers_of_workers_are_not_counted_on_the_own_node() -> None:
    small, large = (spread_layers(model(), USE, [given(mib)], ["cpu"]) for mib in (72, 88))
    assert large.layers[0] > small.layers[0]
    assert large.own_bytes["cpu"] < small.own_bytes["cpu"]


def test_a_worker_on_a_gpu_includes_the_overhead_of_cuda() -> None:
    (on_cpu,) = spread_layers(model(), USE, [ANY], ["cpu"]).workers_bytes
    (on_gpu,) = spread_layers(model(), USE, [WorkerDevice(device="GPU-a")], ["cpu"]).workers_bytes
    assert on_gpu - on_cpu == GPU_OVERHEAD_BYTES - CPU_OVERHEAD_BYTES


def test_main_memory_is_needed_beside_gpus() -> None:
    assert set(spread_layers(model(), USE, [ANY], ["gpu0"]).own_bytes) == {"cpu", "gpu0"}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [([given(33)], "cannot hold one layer"), ([ANY] * 9, "too few for 10 devices")],
)
def test_an_impossible_spread_is_refused_with_a_sentence(parts: list[WorkerDevice], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        spread_layers(model(), USE, parts, ["cpu"])
