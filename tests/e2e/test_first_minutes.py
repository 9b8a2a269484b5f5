"""The first steps of a new user."""

import asyncio
import json
import socket
from pathlib import Path

from openai import AsyncOpenAI

from modelyard.files.tinymodels import DEMO_SENTENCE
from tests.e2e.yard_process import YardProcess, running_yard

HELLO = [{"role": "user", "content": "Hello!"}]


async def test_the_printed_curl_streams_an_answer_and_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    async with running_yard(tmp_path / "home") as yard:
        assert yard.curl.startswith("curl -sN http://127.0.0.1:")
        curl = await asyncio.create_subprocess_shell(yard.curl, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(curl.communicate(), 20)
        assert text_of(out.decode()) == DEMO_SENTENCE
        assert out.rstrip().endswith(b"data: [DONE]")
        processes = yard.processes()
        assert len(processes) >= 8, "yard, broker, four services, runner, engine"
        assert await yard.interrupt() == 0
        assert [process for process in processes.values() if process.is_running()] == []
        port = int(yard.url.rsplit(":", 1)[1])
        with socket.create_server(("127.0.0.1", port)):
            pass


def text_of(stream: str) -> str:
    """The text of a stream of chunks."""
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_openai_clients_get_equal_text_streamed_and_whole_with_usage(new_yard: YardProcess) -> None:
    client = AsyncOpenAI(base_url=f"{new_yard.url}/v1", api_key="none", max_retries=0)
    whole = await client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    assert whole.choices[0].message.content == DEMO_SENTENCE
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 29
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 29
    stream = await client.chat.completions.create(
        model="demo", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == DEMO_SENTENCE
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 29
    plain = await client.chat.completions.create(model="demo", messages=HELLO, temperature=0, stream=True)
    assert all(chunk.choices for chunk in [chunk async for chunk in plain]), (
        "no usage chunk without include_usage"
    )
    models = await client.models.list()
    assert [model.id for model in models.data] == ["demo"]
    await client.close()
