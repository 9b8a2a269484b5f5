"""Processes load what they use; each module below costs every one of them megabytes."""

import subprocess
import sys

import pytest

from modelyard.lean import without


@pytest.mark.parametrize(
    "module", ["services.downloader.service", "services.supervisor.service", "modelyard.client"]
)
def test_a_service_loads_no_web_client_no_tracebacks_in_colour_and_no_arrays(module: str) -> None:
    unwanted = "{'aiohttp', 'rich', 'numpy'}"
    script = f"import sys, modelyard.service, {module}; print(*{unwanted} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_was_left_out_can_be_loaded_afterwards() -> None:
    with without("antigravity"), pytest.raises(ImportError):
        import antigravity  # noqa: F401
    assert "antigravity" not in sys.modules


def test_what_is_loaded_already_stays() -> None:
    with without("subprocess"):
        assert sys.modules["subprocess"] is subprocess
    assert sys.modules["subprocess"] is subprocess
