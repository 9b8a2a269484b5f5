"""The `yard` command as a real process, against stand-ins for the services on a real broker."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.broker import find_server
from schemas import subjects
from schemas.errors import ErrorBody
from schemas.instances import InstanceState
from schemas.requests import UsageReport
from tests.standins import Services, instance, print_lines, services
from tests.support import Yard

PATIENCE_S = 20


@pytest.fixture
async def standins(yard: Yard) -> AsyncIterator[Services]:
    async with services(yard) as started:
        yield started


class Done(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(yard: Yard, **more: str) -> dict[str, str]:
    """As a person's shell would have it, pointing at this yard."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("YARD_")},
        "YARD_HOME": str(yard.settings.home),
        "YARD_NATS_URL": yard.url,
        "TZ": "UTC",
        **more,
    }


async def begin(yard: Yard, *args: str, **more: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *args),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=environment(yard, **more),
    )


async def run(yard: Yard, *args: str, stdin: str = "", **more: str) -> Done:
    """One command to its end, which must be orderly whatever it says."""
    process = await begin(yard, *args, **more)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Done(process.returncode, out.decode(), err.decode())


async def refused(yard: Yard, *args: str) -> str:
    """The sentence of a command that the yard says no to; with --json the same error in its one shape."""
    plain, machine = await run(yard, *args), await run(yard, *args, "--json")
    assert (plain.code, machine.code) == (1, 1)
    assert plain.err.startswith("yard: ")
    error = msgspec.json.decode(machine.out.splitlines()[-1], type=ErrorBody).error
    assert plain.err == machine.err
    assert error.message in plain.err
    return error.code


async def test_list_shows_models_with_their_state_and_size(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    await run(yard, "pull", "org/demo", "--name", "demo")
    plain = await run(yard, "list")
    assert (plain.code, plain.err) == (0, "")
    header, *rows = [line.split() for line in plain.out.splitlines()]
    assert header == ["MODEL", "MODE", "STATE", "SIZE", "ALIASES"]
    assert ["demo", "chat", "ready", "2.0", "MB", "d,", "first"] in rows
    assert ["org/slow:Q4", "embedding", "stopped", "-"] in rows
    by_name = {model["name"]: model for model in (await run(yard, "list", "--json")).document}
    assert by_name["demo"]["state"] == "ready"
    assert by_name["demo"]["size_bytes"] == 2_000_000
    assert by_name["demo"]["aliases"] == ["d", "first"]


async def test_an_empty_yard_says_what_to_do_next(yard: Yard) -> None:
    assert "yard pull" in (await run(yard, "list")).out
    assert (await run(yard, "list", "--json")).document == []
    assert (await run(yard, "ps")).out == "Nothing runs now.\n"


async def test_ps_shows_what_runs_and_why_something_failed(yard: Yard, standins: Services) -> None:
    put = standins.supervisor.put
    await put(instance("i1", "demo", InstanceState.READY))
    await put(instance("i2", "broken", InstanceState.FAILED, error="The engine ended."))
    await put(instance("i3", "demo", InstanceState.STOPPED))
    plain = await run(yard, "ps")
    assert plain.code == 0
    assert "i1" in plain.out
    assert "i3" not in plain.out
    assert "i2 (broken): The engine ended." in plain.out
    assert {each["instance"] for each in (await run(yard, "ps", "--json")).document} == {"i1", "i2"}
    assert len((await run(yard, "ps", "--all", "--json")).document) == 3


async def test_start_waits_until_the_model_is_ready(yard: Yard, standins: Services) -> None:
    plain = await run(yard, "start", "d")
    assert (plain.code, plain.err) == (0, "")
    assert plain.out.splitlines()[-1] == "demo is ready after 2s. Talk to it: yard chat demo"
    assert (await run(yard, "start", "demo", "--json")).document["state"] == "ready"


async def test_start_need_not_wait(yard: Yard, standins: Services) -> None:
    plain = await run(yard, "start", "demo", "--no-wait")
    assert (plain.code, plain.out) == (0, "demo is starting (instance de1).\n")
    assert (await run(yard, "start", "demo", "--no-wait", "--json")).document["instance"] == "de1"


async def test_a_start_that_fails_tells_the_engines_reason(yard: Yard, standins: Services) -> None:
    assert await refused(yard, "start", "broken") == "model_start_failed"
    assert "out of memory" in (await run(yard, "start", "broken")).err
    assert await refused(yard, "start", "other") == "model_not_found"


async def test_a_start_that_takes_too_long_or_is_interrupted_goes_on(yard: Yard, standins: Services) -> None:
    late = await run(yard, "start", "org/slow:Q4", "--timeout", "1s")
    assert (late.code, late.err) == (1, "yard: org/slow:Q4 was not ready after 1s; it goes on starting.\n")
    process = await begin(yard, "start", "org/slow:Q4")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert b"is loading" in await _line_with(process.stdout, b"loading")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert "org/slow:Q4 goes on starting" in err.decode()
    assert "Traceback" not in err.decode()


async def _line_with(stream: asyncio.StreamReader, part: bytes) -> bytes:
    async for line in stream:
        if part in line:
            return line
    raise AssertionError(f"{part!r} was never printed")


async def test_stop_names_what_it_stops(yard: Yard, standins: Services) -> None:
    assert (await run(yard, "stop", "demo")).out == "demo is stopping (de1).\n"
    assert (await run(yard, "stop", "broken")).out == "broken did not run.\n"
    assert (await run(yard, "stop", "demo", "--json")).document == {"model": "demo", "instances": ["de1"]}
    assert await refused(yard, "stop", "other") == "model_not_found"


async def test_pull_tells_the_way_and_what_to_do_next(yard: Yard, standins: Services) -> None:
    plain = await run(yard, "pull", "org/demo", "--name", "demo")
    assert (plain.code, plain.err) == (0, "")
    lines = plain.out.splitlines()
    assert lines[0] == "demo: queued"
    assert "demo: finished, 2.0 MB of 2.0 MB" in lines
    assert lines[-1] == "demo is in the yard. Talk to it: yard chat demo"
    embedder = await run(yard, "pull", "org/demo", "--name", "org/slow:Q4")
    assert embedder.out.splitlines()[-1].endswith("start it: yard start org/slow:Q4")
    updates = (await run(yard, "pull", "org/demo", "--json")).lines
    assert [update["state"] for update in updates][-1] == "finished"
    assert updates[-1]["bytes_done"] == 2_000_000


async def test_a_pull_that_fails_tells_why(yard: Yard, standins: Services) -> None:
    assert await refused(yard, "pull", "org/gone") == "not_found"
    assert await refused(yard, "pull", "org/wrong") == "bad_request"
    standins.downloader.cancelled.set()
    assert await refused(yard, "pull", "org/long") == "conflict"


async def test_an_interrupted_pull_leaves_the_download_running(yard: Yard, standins: Services) -> None:
    process = await begin(yard, "pull", "org/long")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        await _line_with(process.stdout, b"transferring")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().strip() == "The download goes on; `yard pull org/long` shows it again."
    assert not standins.downloader.cancelled.is_set()


async def test_logs_shows_lines_and_follows(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    await print_lines(yard, "i1", "demo", "\x1b[31mone\x1b[0m", "two")
    assert (await run(yard, "logs", "demo")).out == "one\ntwo\n", "the terminal is not steered by an engine"
    assert [line["text"] for line in (await run(yard, "logs", "i1", "--json")).lines][1] == "two"
    assert await refused(yard, "logs", "other") == "not_found"
    process = await begin(yard, "logs", "-f", "demo")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        await _line_with(process.stdout, b"two")
        await print_lines(yard, "i1", "demo", "three")
        await _line_with(process.stdout, b"three")
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130


async def test_events_shows_what_happened_lately(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    plain = await run(yard, "events")
    assert plain.code == 0
    assert plain.out.split()[2:] == [
        "instance.ready",
        "model=demo",
        "instance=i1",
        "node=testnode",
        "state=ready",
    ]
    [event] = (await run(yard, "events", "--since", "1h", "--json")).lines
    assert event["subject"] == subjects.INSTANCE_CHANGED(instance="i1", state="ready")
    assert event["headers"]["ce-type"] == "yard.event.instance.ready"
    assert event["data"]["model"] == "demo"
    process = await begin(yard, "events", "--follow", "--json")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        await _line_with(process.stdout, b"i1")
        await standins.supervisor.put(instance("i2", "demo", InstanceState.LOADING))
        await _line_with(process.stdout, b"i2")
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130


async def test_a_reader_that_has_seen_enough_ends_the_command_quietly(yard: Yard, standins: Services) -> None:
    for number in range(300):
        await standins.supervisor.put(instance(f"i{number}", "demo", InstanceState.READY))
    for verb in ("events", "ps", "list"):
        process = await asyncio.create_subprocess_shell(
            f"set -o pipefail; {sys.executable} -m modelyard.cli {verb} | true; echo $?",
            executable="/bin/bash",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(yard),
        )
        async with asyncio.timeout(PATIENCE_S):
            assert await process.communicate() == (b"0\n", b"")


async def test_usage_is_summed_up_by_model(yard: Yard, standins: Services) -> None:
    plain = await run(yard, "usage", "--since", "24h", "--model", "demo")
    assert plain.code == 0
    assert plain.out.splitlines()[1].split() == ["demo", "12", "1", "2", "3,456", "7", "890"]
    query = standins.monitor.queries[0]
    assert query.model == "demo"
    assert query.since == pytest.approx(time.time() - 86400, abs=60)
    machine = await run(yard, "usage", "--json")
    assert msgspec.json.decode(machine.out, type=UsageReport).models[0].requests == 12
    assert standins.monitor.queries[1].since is None
    assert (await run(yard, "usage", "--model", "none")).out == "No requests were made in that time.\n"


async def test_chat_answers_a_prompt_from_the_line_or_from_a_pipe(yard: Yard, standins: Services) -> None:
    assert (await run(yard, "chat", "demo", "you")).out == "Hello, you!\n"
    assert (await run(yard, "chat", "demo", stdin="piped\n", PYTHONUTF8="1")).out == "Hello, piped!\n"
    deltas = (await run(yard, "chat", "demo", "you", "--system", "be brief", "--json")).lines
    assert deltas == [{"delta": "Hello, "}, {"delta": "you"}, {"delta": "!"}]
    assert standins.gateway.bodies[-1]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "you"},
    ]


async def test_a_chat_that_is_refused_or_breaks_off_says_so(yard: Yard, standins: Services) -> None:
    assert await refused(yard, "chat", "other", "hi") == "model_not_found"
    assert await refused(yard, "chat", "demo", "break") == "engine_failed"
    assert await refused(yard, "chat", "demo", "") == "bad_request"
    assert (await run(yard, "chat", "demo", "break")).out == "Hello, break!\n"


async def test_an_interrupted_answer_is_cancelled(yard: Yard, standins: Services) -> None:
    process = await begin(yard, "chat", "demo", "endless")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readexactly(5) == b"Hello"
        process.send_signal(signal.SIGINT)
        assert await standins.gateway.cancelled.get() == standins.gateway.requests[0]
        await process.communicate()
    assert process.returncode == 130


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, screen: int) -> None:
        self.process = process
        self._screen = screen
        self._loop = asyncio.get_running_loop()
        self._seen = b""
        self._more = asyncio.Event()
        self._loop.add_reader(screen, self._read)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._screen, 65536)
        except OSError:
            # What a terminal says when its program is gone.
            self._loop.remove_reader(self._screen)
        self._more.set()

    async def see(self, text: str) -> str:
        """Wait until `text` is on the screen; what is before it, and it, need not be seen again."""
        async with asyncio.timeout(PATIENCE_S):
            while text.encode() not in self._seen:
                self._more.clear()
                await self._more.wait()
        before, self._seen = self._seen.split(text.encode(), 1)
        return before.decode()

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    async def end(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
        self._loop.remove_reader(self._screen)
        os.close(self._screen)
        return code


async def on_terminal(yard: Yard, *args: str) -> Terminal:
    screen, end = pty.openpty()

    def take_over() -> None:
        with contextlib.suppress(OSError):
            os.setsid()
        os.close(os.open(os.ttyname(0), os.O_RDWR))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *args),
        stdin=end,
        stdout=end,
        stderr=end,
        env=environment(yard, TERM="xterm", COLUMNS="80", LINES="25"),
        preexec_fn=take_over,
    )
    os.close(end)
    return Terminal(process, screen)


async def test_a_conversation_remembers_and_ctrl_c_breaks_off_one_answer(
    yard: Yard, standins: Services
) -> None:
    terminal = await on_terminal(yard, "chat", "demo")
    await terminal.see("> ")
    terminal.type("you\n")
    await terminal.see("Hello, you!")
    await terminal.see("> ")
    terminal.type("endless\n")
    await terminal.see("Hello, endless!")
    terminal.type("\x03")
    assert await standins.gateway.cancelled.get() == standins.gateway.requests[1]
    await terminal.see("> ")
    terminal.type("full\n")
    await terminal.see("yard: Too many requests wait.")
    await terminal.see("> ")
    terminal.type("again\n")
    await terminal.see("Hello, again!")
    await terminal.see("> ")
    terminal.type("\x04")
    assert await terminal.end() == 0
    said = [message["content"] for message in standins.gateway.bodies[-1]["messages"]]  # type: ignore[attr-defined]
    assert said == ["you", "Hello, you!", "endless", "Hello, endless!", "again"]


async def test_ctrl_c_at_the_prompt_ends_a_conversation(yard: Yard, standins: Services) -> None:
    terminal = await on_terminal(yard, "chat", "demo")
    await terminal.see("> ")
    terminal.type("\x03")
    assert await terminal.end() == 130


async def test_a_terminal_shows_progress_in_place(yard: Yard, standins: Services) -> None:
    pull = await on_terminal(yard, "pull", "org/demo")
    assert "MB of 2.0 MB" in await pull.see("org/demo is in the yard.")
    assert await pull.end() == 0
    start = await on_terminal(yard, "start", "demo")
    await start.see("demo is ready after 2s.")
    assert await start.end() == 0


async def test_without_a_broker_every_command_says_so_soon(yard: Yard) -> None:
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
    )
    commands = [run(yard, *line.split(), "--json", YARD_NATS_URL="nats://127.0.0.1:1") for line in lines]
    for done in await asyncio.gather(*commands):
        assert done.code == 3
        assert done.err.startswith("yard: The broker at nats://127.0.0.1:1 does not answer")
        assert done.err.count("\n") == 1
        assert done.document["error"]["code"] == "broker_unavailable"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "args", [("start", "demo"), ("stop", "demo"), ("pull", "org/demo"), ("usage",), ("chat", "demo", "hi")]
)
async def test_a_service_that_is_not_there_is_named(yard: Yard, args: tuple[str, ...]) -> None:
    done = await run(yard, *args)
    assert done.code == 3
    assert "is not there to answer" in done.err
    assert "`yard up`" in done.err


async def test_another_home_is_told(yard: Yard, tmp_path: Path) -> None:
    done = await run(yard, "list", YARD_HOME=str(tmp_path / "elsewhere"))
    assert done.code == 3
    assert "is YARD_HOME right" in done.err


async def test_a_wrong_setting_ends_with_its_sentence(yard: Yard) -> None:
    done = await run(yard, "list", YARD_PORT="many")
    assert (done.code, done.err) == (
        78,
        "yard: YARD_PORT=many is not a port; give a number from 0 to 65535.\n",
    )


@pytest.mark.parametrize("args", [(), ("fly",), ("start",), ("events", "--since", "soon")])
async def test_a_wrong_command_line_is_a_usage_error(yard: Yard, args: tuple[str, ...]) -> None:
    done = await run(yard, *args)
    assert done.code == 2
    assert "usage: yard" in done.err


@pytest.mark.parametrize(
    "verb", ["", "up", "pull", "list", "ps", "start", "stop", "logs", "events", "usage", "chat"]
)
async def test_every_verb_explains_itself(yard: Yard, verb: str) -> None:
    done = await run(yard, *filter(None, [verb]), "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: yard {verb}".rstrip())
    assert verb in ("", "up") or "--json" in done.out


async def test_init_prepares_a_home_once(tmp_path: Path) -> None:
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
    ("place", "words", "code", "said"),
    [
        ("file/home", (), 78, "cannot be written"),
        ("home", ("--nats-port", "99999"), 2, "not a port"),
    ],
)
async def test_init_says_in_a_sentence_why_it_cannot(
    tmp_path: Path, place: str, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "YARD_HOME": str(tmp_path / place)}
    line = [sys.executable, "-m", "modelyard.cli", "init", *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
