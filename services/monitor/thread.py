"""A thread of one's own, for libraries that block or that keep state by thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class OwnThread:
    """Runs calls one after another, always in the same thread."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What `call` returns or raises. It goes on even if the waiting for it is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)

    def end(self, last: Callable[[], object] | None = None) -> None:
        """Take no more calls, and do `last` after those taken; does not wait, since one of them may hang."""
        if last is not None:
            self._executor.submit(last)
        self._executor.shutdown(wait=False)
