"""Processes load what they use; each module below costs every one of them megabytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.lean import without

HEAVY = {
    *("aiohttp", "huggingface_hub", "numpy", "pynvml", "rich", "yarl"),
    *("importlib.metadata", "platformdirs", "psutil", "typing_extensions", "zoneinfo"),
}
USED = {
    "import services.gateway.__main__": {"aiohttp", "typing_extensions", "yarl"},
    "import services.downloader.__main__": set(),
    "import services.supervisor.__main__": {"importlib.metadata", "psutil"},
    "import services.monitor.__main__": {"importlib.metadata", "psutil", "zoneinfo"},
    "import services.downloader.listing": set(),
    "import modelyard.client": {"typing_extensions"},
    # What runs on with the yard, and what waits as long as a download takes.
    "import modelyard.cli.parser, modelyard.up.run": set(),
    "import modelyard.cli.progress; modelyard.cli.main(['downloads'])": set(),
}
"""What a process begins with, and what is heavy of that."""


def loaded(script: str, **environment: str) -> set[str]:
    """The modules that are there after a script."""
    script = (
        f"import sys\n{script}\nprint('loaded', *(name for name, module in sys.modules.items() if module))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    words = done.stdout.split()
    assert words.pop(0) == "loaded"
    return set(words)


@pytest.mark.parametrize("script", USED)
def test_a_process_begins_with_nothing_heavy_that_it_may_never_use(script: str, tmp_path: Path) -> None:
    # The folder is empty: a command ends before it could talk to a yard.
    assert loaded(script, YARD_HOME=str(tmp_path)) & HEAVY <= USED[script]


def test_a_worker_has_no_loop_while_the_hub_is_asked_and_the_hubs_library_never() -> None:
    before = loaded("import services.downloader.worker")
    assert before & {*HEAVY, "asyncio", "structlog"} == set()
    after = loaded("import services.downloader.worker_fetch")
    assert "huggingface_hub" not in after


def test_what_was_left_out_can_be_loaded_afterwards() -> None:
    with without("antigravity"), pytest.raises(ImportError):
        import antigravity  # noqa: F401
    assert "antigravity" not in sys.modules


def test_what_is_loaded_already_stays() -> None:
    with without("subprocess"):
        assert sys.modules["subprocess"] is subprocess
    assert sys.modules["subprocess"] is subprocess
