"""Audio uploads, and large streams without a reader."""

import asyncio
import io
import json
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
import pytest_asyncio

from schemas import subjects
from schemas.models import Mode, ModelSpec
from schemas.requests import Outcome
from tests import media_standin
from tests.e2e.yard_process import YardProcess, running_yard
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
FLOOD_BYTES = 64 * 2**20
GROWTH_MIB = 100
"""More than the 8 MiB that the gateway buffers for a reader, with room for Python's allocator."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    args = (sys.executable, media_standin.__file__, "{port}")
    async with running_yard(tmp_path_factory.mktemp("media") / "home") as yard:
        for name, mode in (("ears", Mode.TRANSCRIPTION), ("flood", Mode.CHAT)):
            await yard.put(ModelSpec(name=name, path="none", engine="command", mode=mode, args=args))
        yield yard


def sound() -> bytes:
    """A tenth of a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16000)
        wav.writeframes(bytes(3200))
    return file.getvalue()


async def test_sound_is_transcribed_and_recorded(yard: YardProcess) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    async with openai.AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=0) as client:
        transcription = await client.audio.transcriptions.create(model="ears", file=("a.wav", sound()))
        assert transcription.text == f"{len(sound())} bytes of sound, RIFF"
        with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
            await client.audio.transcriptions.create(model="demo", file=("a.wav", sound()))
    record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=10)).data)
    assert (record.path, record.model, record.outcome) == (
        "/v1/audio/transcriptions",
        "ears",
        Outcome.OK,
    )


async def test_a_form_with_an_unknown_model_is_refused(yard: YardProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="no-such-model"):
            await client.audio.transcriptions.create(model="no-such-model", file=("a.wav", sound()))


async def test_a_client_that_does_not_read_is_disconnected_and_costs_little_memory(yard: YardProcess) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    gateway = yard.service("gateway")
    before_mib = gateway.memory_info().rss / 2**20
    body = json.dumps({"model": "flood", "stream": True, "max_tokens": FLOOD_BYTES, "messages": []}).encode()
    address = urlsplit(yard.url)
    # A small limit: unread bytes stay in the gateway.
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**14)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    assert b" 200 " in await reader.readuntil(b"\r\n")
    record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=60)).data)
    assert record.outcome in (Outcome.CANCELLED, Outcome.FAILED)
    assert gateway.memory_info().rss / 2**20 - before_mib < GROWTH_MIB
    log = (Path(yard.home) / "logs" / "gateway.log").read_text()
    assert "reader_too_slow" in log
    own_port = writer.get_extra_info("sockname")[1]
    await eventually(
        lambda: not [c for c in gateway.net_connections() if c.raddr and c.raddr.port == own_port],
        "the connection is closed",
        every_s=0.05,
    )
    writer.close()
