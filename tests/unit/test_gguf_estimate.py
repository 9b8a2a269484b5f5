"""The estimate against what llama-server itself reported for the same models and arguments."""

import pytest

from modelyard.files.gguf.estimate import (
    CPU_OVERHEAD_BYTES,
    GPU_OVERHEAD_BYTES,
    MMPROJ_COMPUTE_BYTES,
    Estimate,
    RunOptions,
    estimate,
    mask_bytes,
)
from modelyard.files.gguf.header import Header
from tests.gguf_bytes import Simple, Weight
from tests.unit.gguf_headers import MAMBA, MAMBA_STATE, header

MIB = 1024 * 1024
GEMMA: dict[str, Simple | list[Simple]] = {
    "attention.sliding_window": 1024,
    "attention.key_length": 128,
    "attention.value_length": 128,
}


def cache_mib(model: Header, use: RunOptions) -> float:
    return estimate(model, use).devices["cpu"].cache_bytes / MIB


@pytest.mark.parametrize(
    ("model", "use", "reported_mib"),
    [
        (header("llama", n_layer=8), RunOptions(n_ctx=8192, n_parallel=4), 32.0),
        (header("llama", n_layer=8), RunOptions(n_ctx=32_768, n_parallel=4, cache_type="q8_0"), 68.0),
        (header("llama", n_layer=8), RunOptions(n_ctx=1000), 4.0),
        (header("gemma3", GEMMA, n_layer=12), RunOptions(n_ctx=16_384, n_parallel=4), 32.0 + 45.0),
        (header("gemma3", GEMMA, n_layer=12), RunOptions(n_ctx=16_384), 32.0 + 15.0),
        (header("gemma3", GEMMA, n_layer=12), RunOptions(n_ctx=4096, n_parallel=8), 8.0 + 40.0),
        (header("bert"), RunOptions(n_ctx=8192, n_parallel=4), 0.0),
    ],
)
def test_the_cache_estimate_equals_what_llama_server_reported(
    model: Header, use: RunOptions, reported_mib: float
) -> None:
    assert cache_mib(model, use) == reported_mib


@pytest.mark.parametrize(
    ("cache_type", "cell_bytes"),
    [("f32", 8), ("f16", 4), ("bf16", 4), ("q8_0", 2.125), ("q5_1", 1.5), ("q4_0", 1.125), ("iq4_nl", 1.125)],
)
def test_the_cache_follows_its_type(cache_type: str, cell_bytes: float) -> None:
    model = header("llama", n_layer=1)
    assert cache_mib(model, RunOptions(n_ctx=8192, cache_type=cache_type)) * MIB == 8192 * 128 * cell_bytes


def test_recurrent_state_is_counted_for_each_slot_whatever_the_context() -> None:
    model = header("mamba2", MAMBA)
    for n_ctx in (256, 65_536):
        memory = estimate(model, RunOptions(n_ctx=n_ctx, n_parallel=6)).devices["cpu"]
        assert memory.cache_bytes == 4 * 6 * MAMBA_STATE * 4


@pytest.mark.parametrize(
    ("use", "reported_mib"),
    [
        (RunOptions(n_ctx=8192, n_parallel=4, n_outputs=4), 25.02),
        (RunOptions(n_ctx=1000, n_parallel=4, n_outputs=4), 18.02),
        (RunOptions(n_ctx=32_768, n_parallel=4, n_outputs=4, cache_type="q8_0"), 49.05),
        (RunOptions(n_ctx=8192, n_parallel=4, n_outputs=4, n_ubatch=2048), 100.07),
        (RunOptions(n_ctx=8192, n_parallel=4, flash_attention=False), 150.51),
        (RunOptions(n_ctx=32_768, n_parallel=4, flash_attention=False), 582.51),
    ],
)
def test_the_compute_buffer_is_bounded_from_above_but_not_wildly(
    use: RunOptions, reported_mib: float
) -> None:
    model = header("llama", {"feed_forward_length": 2048, "vocab_size": 32_000}, n_layer=8)
    assert reported_mib <= estimate(model, use).devices["cpu"].compute_bytes / MIB <= 2 * reported_mib


def test_logits_for_every_token_are_the_largest_part_of_a_small_model() -> None:
    model = header("llama", {"feed_forward_length": 2048, "vocab_size": 128_000}, n_layer=4)
    compute_bytes = estimate(model, RunOptions(n_ctx=8192, n_parallel=4)).devices["cpu"].compute_bytes
    assert 263.02 * MIB <= compute_bytes <= 1.1 * 263.02 * MIB


def test_experts_count_as_often_as_they_are_used() -> None:
    values: dict[str, Simple | list[Simple]] = {"expert_feed_forward_length": 1024, "expert_count": 64}
    few, many = (
        estimate(header("qwen3moe", values | {"expert_used_count": used}), RunOptions(n_ctx=1024))
        for used in (2, 8)
    )
    assert many.total_bytes - few.total_bytes == 6 * 512 * (3 * 1024 + 512) * 4


TIED = (
    Weight("token_embd.weight", (32, 1000), 0, 128_000),
    Weight("output_norm.weight"),
    *(Weight(f"blk.{index}.ffn_up.weight", (32, 100), 0, 12_800) for index in range(4)),
)


def weights(model: Header, shares: dict[str, float]) -> dict[str, int]:
    result = estimate(model, RunOptions(n_ctx=1024), shares)
    return {device: memory.weights_bytes for device, memory in result.devices.items()}


def test_main_memory_alone_holds_everything_once() -> None:
    assert weights(header("llama", {}, *TIED), {"cpu": 1.0}) == {"cpu": 128_000 + 128 + 4 * 12_800}


def test_tied_embeddings_are_copied_to_the_gpu() -> None:
    split = weights(header("llama", {}, *TIED), {"gpu0": 1.0})
    assert split == {"cpu": 128_000, "gpu0": 128_000 + 128 + 4 * 12_800}


def test_embeddings_of_an_encoder_are_not_copied() -> None:
    assert weights(header("bert", {}, *TIED), {"gpu0": 1.0}) == {"cpu": 128_000, "gpu0": 128 + 4 * 12_800}


def test_layers_are_placed_in_order_and_the_output_last() -> None:
    untied = (*TIED, Weight("output.weight", (32, 1000), 0, 128_000))
    split = weights(header("llama", {}, *untied), {"gpu0": 3, "gpu1": 2})
    assert split == {"cpu": 128_000, "gpu0": 3 * 12_800, "gpu1": 12_800 + 128 + 128_000}


def test_main_memory_takes_the_first_layers_wherever_it_is_named() -> None:
    result = estimate(header("llama", {}, *TIED), RunOptions(n_ctx=1024), {"gpu0": 4, "cpu": 1})
    assert result.devices["cpu"].weights_bytes == 128_000 + 12_800
    assert result.devices["cpu"].cache_bytes * 3 == result.devices["gpu0"].cache_bytes


def test_the_cache_is_placed_with_its_layers() -> None:
    result = estimate(header("llama", n_layer=9), RunOptions(n_ctx=4096), {"gpu0": 1, "gpu1": 1})
    whole = estimate(header("llama", n_layer=9), RunOptions(n_ctx=4096)).devices["cpu"].cache_bytes
    parts = [result.devices[device].cache_bytes for device in ("cpu", "gpu0", "gpu1")]
    assert parts == [0, whole * 5 // 9, whole * 4 // 9]


def test_every_gpu_costs_its_overhead_and_its_own_compute_buffer() -> None:
    model = header("llama", {"feed_forward_length": 2048})
    one = estimate(model, RunOptions(n_ctx=4096), {"gpu0": 1})
    two = estimate(model, RunOptions(n_ctx=4096), {"gpu0": 1, "gpu1": 1})
    assert one.devices["gpu0"].overhead_bytes == two.devices["gpu1"].overhead_bytes == GPU_OVERHEAD_BYTES
    assert one.devices["cpu"].overhead_bytes == CPU_OVERHEAD_BYTES
    more_masks = 3 * mask_bytes(n_batch=512, n_cells=4096)
    assert two.devices["gpu1"].compute_bytes == one.devices["gpu0"].compute_bytes + more_masks


def test_projector_and_adapters_are_counted_on_their_devices() -> None:
    def differences(shares: dict[str, float] | None) -> dict[str, int]:
        plain, dressed = (
            estimate(header("llama"), RunOptions(n_ctx=1024, mmproj_bytes=mmproj, lora_bytes=lora), shares)
            for mmproj, lora in ((0, 0), (7_000_000, 1_000))
        )
        return {
            name: dressed.devices[name].total_bytes - plain.devices[name].total_bytes
            for name in plain.devices
        }

    projector = 7_000_000 + MMPROJ_COMPUTE_BYTES
    assert differences(None) == {"cpu": projector + 1_000}
    assert differences({"a": 3, "b": 2}) == {"cpu": 0, "a": projector + 600, "b": 400}


def test_the_total_is_the_sum_of_all_parts() -> None:
    result = estimate(header("llama", {}, *TIED), RunOptions(n_ctx=1024), {"gpu0": 1, "cpu": 1})
    parts = [
        memory.weights_bytes
        + memory.cache_bytes
        + memory.compute_bytes
        + memory.mmproj_bytes
        + memory.overhead_bytes
        for memory in result.devices.values()
    ]
    assert result.total_bytes == sum(parts)
    assert isinstance(result, Estimate)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cache_type": "q9_9"}, "q9_9 is unknown"),
        ({"n_ctx": 0}, "at least 1"),
        ({"n_parallel": 0}, "at least 1"),
    ],
)
def test_impossible_run_options_are_refused(values: dict[str, int | str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunOptions(**{"n_ctx": 1024, **values})


def test_a_device_with_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        estimate(header("llama"), RunOptions(n_ctx=1024), {"gpu0": 1, "gpu1": 0})
