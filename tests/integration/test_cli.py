"""What `yard` shows of a yard, against stand-ins for the services on a real broker."""

import asyncio
import signal
import sys

import msgspec

from schemas import subjects
from schemas.instances import InstanceState
from schemas.usage import UsageReport
from tests.commands import (
    TIMEOUT_S,
    command_environment,
    read_line_with,
    refusal_code,
    run_command,
    start_command,
    start_on_terminal,
)
from tests.standins import Services, instance, print_lines
from tests.support import Yard


async def test_list_shows_models_with_their_state_and_size(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    await run_command(yard, "pull", "org/demo", "--name", "demo")
    plain = await run_command(yard, "list")
    assert (plain.code, plain.err) == (0, "")
    header, *rows = [line.split() for line in plain.out.splitlines()]
    assert header == ["MODEL", "MODE", "STATE", "SIZE", "ALIASES"]
    assert ["demo", "chat", "ready", "1.9", "MiB", "d,", "first"] in rows
    assert ["org/slow:Q4", "embedding", "stopped", "-"] in rows
    by_name = {model["name"]: model for model in (await run_command(yard, "list", "--json")).document}
    assert by_name["demo"]["state"] == "ready"
    assert by_name["demo"]["size_bytes"] == 2_000_000
    assert by_name["demo"]["aliases"] == ["d", "first"]


async def test_an_empty_yard_suggests_the_next_command(yard: Yard) -> None:
    assert "yard pull" in (await run_command(yard, "list")).out
    assert (await run_command(yard, "list", "--json")).document == []
    assert (await run_command(yard, "ps")).out == "Nothing runs now.\n"


async def test_ps_shows_running_instances_and_the_errors_of_failed_ones(
    yard: Yard, standins: Services
) -> None:
    put = standins.supervisor.put
    await put(instance("i1", "demo", InstanceState.READY))
    await put(instance("i2", "broken", InstanceState.FAILED, error="The engine ended."))
    await put(instance("i3", "demo", InstanceState.STOPPED))
    plain = await run_command(yard, "ps")
    assert plain.code == 0
    assert "i1" in plain.out
    assert "i3" not in plain.out
    assert "i2 (broken): The engine ended." in plain.out
    assert {row["instance"] for row in (await run_command(yard, "ps", "--json")).document} == {"i1", "i2"}
    assert len((await run_command(yard, "ps", "--all", "--json")).document) == 3


async def test_start_waits_until_the_model_is_ready(yard: Yard, standins: Services) -> None:
    plain = await run_command(yard, "start", "d")
    assert (plain.code, plain.err) == (0, "")
    assert plain.out.splitlines()[-1] == "demo is ready after 2s. Talk to it: yard chat demo"
    assert (await run_command(yard, "start", "demo", "--json")).document["state"] == "ready"


async def test_start_without_waiting_returns_when_accepted(yard: Yard, standins: Services) -> None:
    plain = await run_command(yard, "start", "demo", "--no-wait")
    assert (plain.code, plain.out) == (0, "demo is starting (instance de1).\n")
    assert (await run_command(yard, "start", "demo", "--no-wait", "--json")).document["instance"] == "de1"


async def test_a_failed_start_prints_the_error_of_the_engine(yard: Yard, standins: Services) -> None:
    assert await refusal_code(yard, "start", "broken") == "model_start_failed"
    assert "out of memory" in (await run_command(yard, "start", "broken")).err
    assert await refusal_code(yard, "start", "other") == "model_not_found"


async def test_a_start_continues_after_a_timeout_or_an_interrupt(yard: Yard, standins: Services) -> None:
    late = await run_command(yard, "start", "org/slow:Q4", "--timeout", "1s")
    assert (late.code, late.err) == (1, "yard: org/slow:Q4 was not ready after 1s; it is still starting.\n")
    process = await start_command(yard, "start", "org/slow:Q4")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        assert b"is loading" in await read_line_with(process.stdout, b"loading")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert "org/slow:Q4 is still starting" in err.decode()
    assert "Traceback" not in err.decode()


async def test_stop_names_the_stopping_instances(yard: Yard, standins: Services) -> None:
    assert (await run_command(yard, "stop", "demo")).out == "demo is stopping (de1).\n"
    assert (await run_command(yard, "stop", "broken")).out == "broken did not run.\n"
    assert (await run_command(yard, "stop", "demo", "--json")).document == {
        "model": "demo",
        "instances": ["de1"],
    }
    assert await refusal_code(yard, "stop", "other") == "model_not_found"


async def test_pull_prints_progress_and_the_next_command(yard: Yard, standins: Services) -> None:
    plain = await run_command(yard, "pull", "org/demo", "--name", "demo")
    assert (plain.code, plain.err) == (0, "")
    lines = plain.out.splitlines()
    assert lines[0] == "demo: queued"
    assert "demo: finished, 1.9 MiB of 1.9 MiB" in lines
    assert lines[-1] == "demo is in the yard. Talk to it: yard chat demo"
    embedder = await run_command(yard, "pull", "org/demo", "--name", "org/slow:Q4")
    assert embedder.out.splitlines()[-1].endswith("start it: yard start org/slow:Q4")
    updates = (await run_command(yard, "pull", "org/demo", "--json")).lines
    assert [update["state"] for update in updates][-1] == "finished"
    assert updates[-1]["bytes_done"] == 2_000_000


async def test_a_failed_pull_prints_its_error(yard: Yard, standins: Services) -> None:
    assert await refusal_code(yard, "pull", "org/gone") == "not_found"
    assert await refusal_code(yard, "pull", "org/wrong") == "bad_request"
    standins.downloader.cancelled.set()
    assert await refusal_code(yard, "pull", "org/long") == "conflict"


async def test_an_interrupted_pull_leaves_the_download_running(yard: Yard, standins: Services) -> None:
    process = await start_command(yard, "pull", "org/long")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        await read_line_with(process.stdout, b"transferring")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().strip() == "The download continues; `yard pull org/long` shows it again."
    assert not standins.downloader.cancelled.is_set()


async def test_logs_shows_lines_and_follows(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    await print_lines(yard, "i1", "demo", "\x1b[31mone\x1b[0m", "two")
    assert (await run_command(yard, "logs", "demo")).out == "one\ntwo\n", (
        "the terminal is not steered by an engine"
    )
    assert [line["text"] for line in (await run_command(yard, "logs", "i1", "--json")).lines][1] == "two"
    assert await refusal_code(yard, "logs", "other") == "not_found"
    process = await start_command(yard, "logs", "-f", "demo")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        await read_line_with(process.stdout, b"two")
        await print_lines(yard, "i1", "demo", "three")
        await read_line_with(process.stdout, b"three")
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130


async def test_events_shows_recent_events_and_follows(yard: Yard, standins: Services) -> None:
    await standins.supervisor.put(instance("i1", "demo", InstanceState.READY))
    plain = await run_command(yard, "events")
    assert plain.code == 0
    assert plain.out.split()[2:] == [
        "instance.ready",
        "model=demo",
        "instance=i1",
        "node=testnode",
        "state=ready",
    ]
    [event] = (await run_command(yard, "events", "--since", "1h", "--json")).lines
    assert event["subject"] == subjects.INSTANCE_CHANGED(instance="i1", state="ready")
    assert event["headers"]["ce-type"] == "yard.event.instance.ready"
    assert event["data"]["model"] == "demo"
    process = await start_command(yard, "events", "--follow", "--json")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        await read_line_with(process.stdout, b"i1")
        await standins.supervisor.put(instance("i2", "demo", InstanceState.LOADING))
        await read_line_with(process.stdout, b"i2")
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130


async def test_a_closed_pipe_ends_the_command_quietly(yard: Yard, standins: Services) -> None:
    for number in range(300):
        await standins.supervisor.put(instance(f"i{number}", "demo", InstanceState.READY))
    for verb in ("events", "ps", "list"):
        process = await asyncio.create_subprocess_shell(
            f"set -o pipefail; {sys.executable} -m modelyard.cli {verb} | true; echo $?",
            executable="/bin/bash",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=command_environment(yard),
        )
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.communicate() == (b"0\n", b"")


async def test_usage_is_summed_up_by_model(yard: Yard, standins: Services) -> None:
    plain = await run_command(yard, "usage", "--since", "24h", "--model", "demo")
    assert plain.code == 0
    assert plain.out.splitlines()[1].split() == ["demo", "12", "1", "2", "3,456", "7", "890", "1.5", "EUR"]
    query = standins.monitor.queries[0]
    assert query.model == "demo"
    assert query.last_s == 86400
    machine = await run_command(yard, "usage", "--json")
    assert msgspec.json.decode(machine.out, type=UsageReport).rows[0].requests == 12
    assert standins.monitor.queries[1].last_s is None
    assert (
        await run_command(yard, "usage", "--model", "none")
    ).out == "No requests were made in that time.\n"


async def test_a_terminal_redraws_progress(yard: Yard, standins: Services) -> None:
    pull = await start_on_terminal(yard, "pull", "org/demo")
    assert "MiB of 1.9 MiB" in await pull.wait_for("org/demo is in the yard.")
    assert await pull.wait() == 0
    start = await start_on_terminal(yard, "start", "demo")
    await start.wait_for("demo is ready after 2s.")
    assert await start.wait() == 0
