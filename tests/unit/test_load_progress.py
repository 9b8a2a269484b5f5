"""The progress of a load, from the output of real engines."""

import pytest

from services.supervisor.engines.command import CommandEngine
from services.supervisor.engines.embedded import EmbeddedEngine
from services.supervisor.engines.llama_cpp import LlamaCppEngine
from services.supervisor.engines.vllm import VllmEngine


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (".", 0.01),
        ("." * 42, 0.42),
        ("." * 100, 1.0),
        ("0.00.077.875 I " + "." * 7, 0.07),
        ("load_tensors: loading model tensors, this can take a while...", None),
        ("", None),
        ("0.00.077.875 I load_tensors:   CPU_Mapped model buffer size =  1027.42 MiB", None),
    ],
)
def test_llama_cpp_prints_one_dot_a_percent(line: str, progress: float | None) -> None:
    assert LlamaCppEngine().parse_progress(line) == progress
    assert EmbeddedEngine().parse_progress(line) == progress


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]", 0.0),
        ("\rx checkpoint shards:  25% Completed | 1/4\rx checkpoint shards:  50% Completed | 2/4", 0.5),
        ("Capturing CUDA graph shapes:  50%|#####", None),
    ],
)
def test_vllm_counts_shards(line: str, progress: float | None) -> None:
    assert VllmEngine().parse_progress(line) == progress


def test_a_command_has_no_progress() -> None:
    assert CommandEngine().parse_progress("." * 42) is None
