"""`yard chat`: one prompt, or a conversation on a terminal."""

import asyncio
import signal

from tests.commands import TIMEOUT_S, refusal_code, run_command, start_command, start_on_terminal
from tests.standins import Services
from tests.support import Yard


async def test_chat_answers_a_prompt_from_an_argument_or_a_pipe(yard: Yard, standins: Services) -> None:
    assert (await run_command(yard, "chat", "demo", "you")).out == "Hello, you!\n"
    assert (await run_command(yard, "chat", "demo", stdin="piped\n", PYTHONUTF8="1")).out == "Hello, piped!\n"
    deltas = (await run_command(yard, "chat", "demo", "you", "--system", "be brief", "--json")).lines
    assert deltas == [{"delta": "Hello, "}, {"delta": "you"}, {"delta": "!"}]
    assert standins.gateway.bodies[-1]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "you"},
    ]


async def test_a_refused_or_interrupted_chat_prints_its_error(yard: Yard, standins: Services) -> None:
    assert await refusal_code(yard, "chat", "other", "hi") == "model_not_found"
    assert await refusal_code(yard, "chat", "demo", "break") == "engine_failed"
    assert await refusal_code(yard, "chat", "demo", "") == "bad_request"
    assert (await run_command(yard, "chat", "demo", "break")).out == "Hello, break!\n"


async def test_an_interrupted_answer_is_cancelled(yard: Yard, standins: Services) -> None:
    process = await start_command(yard, "chat", "demo", "endless")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        assert await process.stdout.readexactly(5) == b"Hello"
        process.send_signal(signal.SIGINT)
        assert await standins.gateway.cancelled.get() == standins.gateway.requests[0]
        await process.communicate()
    assert process.returncode == 130


async def test_a_conversation_keeps_its_history_and_ctrl_c_cancels_one_answer(
    yard: Yard, standins: Services
) -> None:
    terminal = await start_on_terminal(yard, "chat", "demo")
    await terminal.wait_for("> ")
    terminal.type("you\n")
    await terminal.wait_for("Hello, you!")
    await terminal.wait_for("> ")
    terminal.type("endless\n")
    await terminal.wait_for("Hello, endless!")
    terminal.type("\x03")
    assert await standins.gateway.cancelled.get() == standins.gateway.requests[1]
    await terminal.wait_for("> ")
    terminal.type("full\n")
    await terminal.wait_for("yard: Too many requests wait.")
    await terminal.wait_for("> ")
    terminal.type("again\n")
    await terminal.wait_for("Hello, again!")
    await terminal.wait_for("> ")
    terminal.type("\x04")
    assert await terminal.wait() == 0
    contents = [message["content"] for message in standins.gateway.bodies[-1]["messages"]]  # type: ignore[attr-defined]
    assert contents == ["you", "Hello, you!", "endless", "Hello, endless!", "again"]


async def test_ctrl_c_at_the_prompt_ends_a_conversation(yard: Yard, standins: Services) -> None:
    terminal = await start_on_terminal(yard, "chat", "demo")
    await terminal.wait_for("> ")
    terminal.type("\x03")
    assert await terminal.wait() == 130
