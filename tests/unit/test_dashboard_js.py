"""The page's pure functions, checked by node's own test runner."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the page's tests with")
def test_the_pages_own_tests_pass() -> None:
    tests = sorted(str(path) for path in (ROOT / "tests" / "dashboard").glob("*.test.mjs"))
    assert tests
    ran = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stdout[-4000:]
