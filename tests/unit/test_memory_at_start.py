"""A process at rest has loaded what it needs; libraries for single tasks are loaded where they are needed."""

import subprocess
import sys

import pytest

PROCESSES = (
    *(f"services.{name}.__main__" for name in ("gateway", "downloader", "supervisor", "monitor")),
    "modelyard.up.run",
    "modelyard.client",
)
SINGLE_TASK = {"gguf", "huggingface_hub", "numpy", "opentelemetry", "torch", "xllamacpp", "zeroconf"}
"""Libraries of 10 MiB and more that a service at rest does not need."""


@pytest.mark.parametrize("module", PROCESSES)
def test_a_service_at_rest_has_not_loaded_libraries_for_single_tasks(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({SINGLE_TASK} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_the_command_line_starts_without_the_client() -> None:
    script = "import sys, modelyard.cli; print('modelyard.client' in sys.modules, 'rich' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["False", "False"]
