"""Start and stop of a yard: settings, ports, homes, and a killed `yard up`."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI, AuthenticationError

from modelyard.host.processes import wait_until_gone
from modelyard.up.child import claim_port
from schemas.instances import InstanceState
from tests.e2e.chat_client import chat
from tests.e2e.yard_process import environment, running_yard, watch_instances
from tests.support import eventually


async def yard_up(home: Path, **more: str) -> tuple[int, str]:
    """`yard up` with an invalid environment: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelyard.cli",
        "up",
        env=environment(home, **more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.parametrize("setting", ["YARD_PORT", "YARD_NATS_PORT"])
async def test_a_port_in_use_is_one_sentence(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = await yard_up(tmp_path / "home", **{setting: str(port)})
    assert code == 78
    assert f"Port {port}" in text
    assert setting in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("YARD_PORT", "web"),
        ("YARD_NATS_PORT", "70000"),
        ("YARD_NATS_URL", "localhost"),
        ("YARD_LLAMA_SERVER", "/nowhere/llama-server"),
        ("YARD_NODE", "a b"),
        ("YARD_HOST", "0.0.0.0"),
    ],
)
async def test_an_invalid_setting_is_one_sentence(tmp_path: Path, name: str, value: str) -> None:
    code, text = await yard_up(tmp_path / "home", **{name: value})
    assert code == 78
    assert name in text
    assert value in text
    assert "Traceback" not in text


async def test_a_home_runs_one_yard(tmp_path: Path) -> None:
    async with running_yard(tmp_path / "home") as yard:
        code, text = await yard_up(tmp_path / "home")
        assert code == 78
        assert f"process {yard.process.pid}" in text
        assert (await chat(yard.url, "demo"))[0] == 200


async def test_runners_of_a_killed_yard_up_are_adopted_by_the_next(tmp_path: Path) -> None:
    """Broker and services end with `yard up`; the runner waits, and its model is not loaded again."""
    ports = {
        "YARD_PORT": str(claim_port("127.0.0.1", 0, "")),
        "YARD_NATS_PORT": str(claim_port("127.0.0.1", 0, "")),
    }
    async with running_yard(tmp_path / "home", **ports) as first:
        assert (await chat(first.url, "demo"))[0] == 200
        async with watch_instances(first.bus) as instances:
            loaded = await instances.until("demo", InstanceState.READY)
        children = [first.service(name) for name in ("gateway", "downloader", "supervisor", "monitor")]
        os.kill(first.process.pid, signal.SIGKILL)
        await first.process.wait()
        async with asyncio.timeout(20):
            for child in children:
                await wait_until_gone(child.pid, child.create_time())
        async with running_yard(tmp_path / "home", **ports) as second:
            async with watch_instances(second.bus) as instances:
                again = await instances.until("demo", InstanceState.READY)
            assert (again.instance, again.pid) == (loaded.instance, loaded.pid)
            assert (await chat(second.url, "demo"))[0] == 200
            assert await second.interrupt() == 0
            assert again.pid is not None
            assert again.pid_started_at is not None
            await asyncio.wait_for(wait_until_gone(again.pid, again.pid_started_at), 1)


async def test_the_services_come_back_after_the_process_that_forks_them_is_killed(tmp_path: Path) -> None:
    async with running_yard(tmp_path / "home") as yard:
        assert (await chat(yard.url, "demo"))[0] == 200
        names = ("gateway", "downloader", "supervisor", "monitor")
        before = [yard.service(name) for name in names]
        parent = before[0].parent()
        assert parent is not None
        assert "modelyard.up.prefork" in parent.cmdline()
        parent.kill()
        for process in before:
            await asyncio.wait_for(wait_until_gone(process.pid, process.create_time()), 20)

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return (await chat(yard.url, "demo"))[0] == 200
            return False

        await eventually(answers, "the demo answers again", timeout_s=20)
        assert {yard.service(name).pid for name in names}.isdisjoint(process.pid for process in before)


async def test_a_gateway_with_keys_listens_beyond_loopback_and_requires_them(tmp_path: Path) -> None:
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    (keys / "api-keys").write_text("# mine\nsesame-sesame\n")
    async with running_yard(tmp_path / "home", YARD_HOST="0.0.0.0") as yard:
        status, body = await chat(yard.url, "demo")
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        curl = await asyncio.create_subprocess_shell(yard.curl, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(curl.communicate(), 20)
        assert b"data: [DONE]" in out, "the printed command works with a key and does not show it"
        assert "sesame" not in yard.curl
        async with AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="sesame-sesame", max_retries=0) as client:
            assert [model.id for model in (await client.models.list()).data] == ["demo"]
        async with AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(AuthenticationError):
                await client.models.list()
        logs = [path.read_text(errors="replace") for path in (tmp_path / "home" / "logs").glob("*")]
        assert not [text for text in logs if "sesame" in text]
