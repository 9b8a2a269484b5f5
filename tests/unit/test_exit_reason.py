"""Which exits count as out of memory, by the output of real engines."""

import signal
from pathlib import Path

import pytest

from schemas.instances import Reason
from services.supervisor.runner.engine_process import exit_reason, kernel_oom_kills

OOM, CRASHED = Reason.OOM, Reason.CRASHED


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 5000.00 MiB: cudaMalloc failed: x", OOM),
        ("alloc_tensor_range: failed to allocate CUDA0 buffer of size 5242880000", OOM),
        ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", OOM),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", OOM),
        ("RuntimeError: CUDA error: CUDA_ERROR_OUT_OF_MEMORY", OOM),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 2.3 GiB for an array", OOM),
        ("terminate called after throwing an instance of 'std::bad_alloc'", OOM),
        ("ValueError: No available memory for the cache blocks.", OOM),
        ("OSError: [Errno 12] Cannot allocate memory", OOM),
        ("warning: failed to mlock 8192-byte buffer: Cannot allocate memory", CRASHED),
        ("error loading model: tensor 'a' data is not within the file bounds", CRASHED),
        ("Segmentation fault", CRASHED),
    ],
)
def test_an_allocation_failure_in_the_output_is_out_of_memory(line: str, reason: Reason) -> None:
    assert exit_reason(["load: begins", line, "exiting"], 1, kernel_killed=False) is reason


@pytest.mark.parametrize(
    ("exit_code", "kernel_killed", "reason"),
    [
        (-signal.SIGKILL, True, OOM),
        (-signal.SIGKILL, False, CRASHED),
        (-signal.SIGSEGV, True, CRASHED),
        (1, True, CRASHED),
        (None, True, CRASHED),
    ],
)
def test_a_sigkill_of_the_oom_killer_is_out_of_memory(
    exit_code: int | None, kernel_killed: bool, reason: Reason
) -> None:
    assert exit_reason([], exit_code, kernel_killed=kernel_killed) is reason


def test_the_count_of_oom_kills_is_read_if_the_kernel_has_one(tmp_path: Path) -> None:
    assert kernel_oom_kills(tmp_path / "none") is None
    (tmp_path / "old").write_text("nr_free_pages 7\n")
    assert kernel_oom_kills(tmp_path / "old") is None
    (tmp_path / "new").write_text("nr_free_pages 7\noom_kill 3\n")
    assert kernel_oom_kills(tmp_path / "new") == 3
