"""The demo model: made here on the first start, so that there is an answer without any download."""

import asyncio
import sys
from pathlib import Path

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas.errors import Conflict
from schemas.models import ModelSpec
from services.downloader.registering.put import register

log = logs.get(__name__)

NAME = "demo"
PATH = "modelyard/demo.gguf"
_DONE = "demo-registered"


async def ensure_demo(bus: Bus, settings: Settings) -> None:
    """Make and register it once a home; who deletes it later does not get it back."""
    done = settings.run / _DONE
    if done.exists():
        return
    path = settings.models / PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    await _write(path)
    if settings.joined:
        # The first machine has registered it; here it only lies ready.
        done.touch()
        return
    try:
        await register(bus, ModelSpec(name=NAME, path=PATH, n_ctx=8192))
    except Conflict as error:
        log.info("demo_not_registered", reason=error.message)
    done.touch()


async def _write(path: Path) -> None:
    """In a process of its own: what it takes to write a model need not stay in memory."""
    argv = (sys.executable, "-m", "modelyard.tinymodels", "reciter", str(path))
    process = await asyncio.create_subprocess_exec(*argv)
    if await process.wait() != 0:
        raise OSError(f"the demo model could not be written to {path}")
