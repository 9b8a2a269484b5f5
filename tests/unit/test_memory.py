"""The memory a model needs: by device from its files, and corrected by measurements."""

import pytest

from modelyard.files.gguf.estimate import RunOptions, estimate
from modelyard.files.gguf.header import make_header
from modelyard.files.gguf.parse import parse
from modelyard.files.memory import (
    RECENT,
    ModelSizes,
    apply_measurements,
    correct,
    memory_requirements,
    scale_header,
)
from schemas.models import Mode
from schemas.placement import MeasuredMemory, MeasuredUse
from tests.gguf_bytes import Weight, gguf_bytes

GIB = 1024**3
RAW = gguf_bytes(
    {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 64},
    [
        Weight("token_embd.weight", (64, 32), size_bytes=8192),
        Weight("blk.0.attn_q.weight"),
        Weight("blk.1.attn_q.weight"),
    ],
)
HEADER = make_header(parse(RAW, len(RAW)))


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ((), {"cpu": 34 * GIB // 10}),
        (("cpu",), {"cpu": 34 * GIB // 10}),
        (("g1",), {"g1": 34 * GIB // 10}),
        (("g1", "g2"), {"g1": 17 * GIB // 10, "g2": 17 * GIB // 10}),
    ],
)
def test_safetensors_take_their_weights_and_a_margin_split_evenly(
    devices: tuple[str, ...], expected: dict[str, int]
) -> None:
    needs = memory_requirements(ModelSizes(weights_bytes=2 * GIB), Mode.CHAT, 4096, devices)
    assert needs.keys() == expected.keys()
    assert all(abs(needs[device] - expected[device]) <= 1 for device in needs)


@pytest.mark.parametrize(
    ("mode", "devices", "n_outputs"),
    [
        (Mode.CHAT, (), 2),
        (Mode.CHAT, ("cpu",), 2),
        (Mode.CHAT, ("g1",), 2),
        (Mode.COMPLETION, ("g1", "g2"), 2),
        (Mode.EMBEDDING, ("g1",), None),
        (Mode.RERANK, ("cpu",), None),
    ],
)
def test_gguf_files_take_the_estimate_of_their_run_options(
    mode: Mode, devices: tuple[str, ...], n_outputs: int | None
) -> None:
    files = ModelSizes(HEADER, mmproj_bytes=1000, lora_bytes=2000)
    options = RunOptions(
        n_ctx=1024, n_parallel=2, cache_type="q8_0", n_outputs=n_outputs, mmproj_bytes=1000, lora_bytes=2000
    )
    shares = dict.fromkeys(devices, 1.0) if "cpu" not in devices and devices else None
    expected = estimate(HEADER, options, shares).devices
    needs = memory_requirements(files, mode, 1024, devices, n_parallel=2, cache_type="q8_0")
    assert needs == {device: memory.total_bytes for device, memory in expected.items()}


@pytest.mark.parametrize("complete", [True, False])
def test_a_scaled_header_has_about_the_new_size(complete: bool) -> None:
    weights = scale_header(HEADER, 1_000_000, complete=complete).weights
    assert weights.total_bytes == pytest.approx(1_000_000, rel=0.01)
    assert len(weights.block_bytes) == HEADER.n_layer


def test_measurements_of_a_device_correct_its_requirement() -> None:
    use = MeasuredUse(device="g1", used_bytes=800, predicted_bytes=1000)
    assert apply_measurements({"g1": 1000, "cpu": 100}, MeasuredMemory(uses=(use,))) == {
        "g1": 824,
        "cpu": 100,
    }
    assert apply_measurements({"g1": 1000}, None) == {"g1": 1000}


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ([], 1000),
        ([800], 824),
        ([700, 900, 800], 927),
        ([1500], 1545),
        ([9000], 9270),
        ([100], 500),
        ([9000, *[800] * RECENT], 824),
    ],
)
def test_recent_measurements_correct_an_estimate(used: list[int], expected: int) -> None:
    assert correct(1000, used) == expected
