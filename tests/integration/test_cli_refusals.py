"""What `yard` refuses, and `yard init`."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelyard.host.broker import find_server
from tests.commands import run_command
from tests.support import Yard


async def test_without_a_broker_every_command_fails_within_seconds(yard: Yard) -> None:
    began = time.monotonic()
    lines = (
        "list",
        "ps",
        "start demo",
        "stop demo",
        "pull r",
        "logs demo",
        "events",
        "usage",
        "chat demo hi",
        "export",
        "history demo",
        "undo demo",
        "rm demo",
    )
    commands = [
        run_command(yard, *line.split(), "--json", YARD_NATS_URL="nats://127.0.0.1:1") for line in lines
    ]
    for done in await asyncio.gather(*commands):
        assert done.code == 3
        assert done.err.startswith("yard: The broker at nats://127.0.0.1:1 does not answer")
        assert done.err.count("\n") == 1
        assert done.document["error"]["code"] == "broker_unavailable"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "args",
    [
        ("start", "demo"),
        ("stop", "demo"),
        ("pull", "org/demo"),
        ("usage",),
        ("chat", "demo", "hi"),
        ("export",),
    ],
)
async def test_a_missing_service_is_named(yard: Yard, args: tuple[str, ...]) -> None:
    done = await run_command(yard, *args)
    assert done.code == 3
    assert "is not there to answer" in done.err
    assert "`yard up`" in done.err


async def test_another_home_is_reported(yard: Yard, tmp_path: Path) -> None:
    done = await run_command(yard, "list", YARD_HOME=str(tmp_path / "elsewhere"))
    assert done.code == 3
    assert "is YARD_HOME right" in done.err


async def test_a_wrong_setting_ends_with_its_sentence(yard: Yard) -> None:
    done = await run_command(yard, "list", YARD_PORT="many")
    assert (done.code, done.err) == (
        78,
        "yard: YARD_PORT=many is not a port; give a number from 0 to 65535.\n",
    )


@pytest.mark.parametrize("args", [(), ("fly",), ("start",), ("events", "--since", "soon")])
async def test_a_wrong_command_line_is_a_usage_error(yard: Yard, args: tuple[str, ...]) -> None:
    done = await run_command(yard, *args)
    assert done.code == 2
    assert "usage: yard" in done.err


@pytest.mark.parametrize(
    "verb",
    [
        *("", "up", "pull", "list", "ps", "start", "stop", "logs", "events", "usage", "chat"),
        *("apply", "export", "import", "edit", "rename", "rm", "history", "undo"),
    ],
)
async def test_every_verb_has_a_help_page(yard: Yard, verb: str) -> None:
    done = await run_command(yard, *filter(None, [verb]), "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: yard {verb}".rstrip())
    assert verb in ("", "up") or "--json" in done.out


async def test_init_prepares_a_home_and_keeps_its_keys(tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    environment = {**os.environ, "YARD_HOME": str(home)}
    words = [sys.executable, "-m", "modelyard.cli", "init", "--nats-host", "0.0.0.0", "--nats-port", "4333"]
    first = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=True)
    key = (home / "keys" / "api-keys").read_text().strip()
    assert key in first.stdout
    assert (home / "keys" / "api-keys").stat().st_mode & 0o077 == 0
    seeds = {path.name: path.read_text() for path in (home / "keys").glob("*.nk")}
    assert len(seeds) == 6
    again = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert key not in again.stdout
    assert seeds == {path.name: path.read_text() for path in (home / "keys").glob("*.nk")}
    checked = subprocess.run(
        [str(find_server()), "-t", "-c", str(home / "run" / "nats.conf")], capture_output=True, timeout=30
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("place", "words", "code", "sentence"),
    [
        ("file/home", (), 78, "cannot be written"),
        ("home", ("--nats-port", "99999"), 2, "not a port"),
    ],
)
async def test_init_fails_with_a_sentence(
    tmp_path: Path, place: str, words: tuple[str, ...], code: int, sentence: str
) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "YARD_HOME": str(tmp_path / place)}
    line = [sys.executable, "-m", "modelyard.cli", "init", *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


async def test_up_fails_with_a_sentence_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "YARD_HOME": str(tmp_path / "file" / "home")}
    line = [sys.executable, "-m", "modelyard.cli", "up"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert "cannot be written: Not a directory; set YARD_HOME" in done.stderr
    assert "Traceback" not in done.stderr
