"""Watching an engine at work: it is asked how it is every few seconds, at its own pace."""

import asyncio
import time

from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.measuring import cpu_s
from services.supervisor.runner.pulse import CHECKS, Pulse, Signs
from services.supervisor.runner.upstream import Upstream

_ANSWER_S = 5.0
"""How long the health path may take at most."""


async def until_hung(process: EngineProcess, upstream: Upstream, hang_s: float) -> None:
    """Return when the engine has given no sign of life for `hang_s`; never if that is 0."""
    if not hang_s:
        await asyncio.Event().wait()
    pulse, every_s = Pulse(await _signs(process, upstream, _ANSWER_S), hang_s), hang_s / CHECKS
    while True:
        await asyncio.sleep(every_s)
        process.note_kernel_kills()
        if pulse.is_hung(await _signs(process, upstream, min(every_s, _ANSWER_S))):
            return


async def _signs(process: EngineProcess, upstream: Upstream, timeout_s: float) -> Signs:
    healthy = await upstream.is_healthy(timeout_s)
    return Signs(
        at_s=time.monotonic(),
        healthy=healthy,
        heard_bytes=upstream.heard_bytes,
        cpu_s=cpu_s(process.pid),
    )
