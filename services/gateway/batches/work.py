"""Working one batch off: line after line through the queue, from wherever it was left."""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable

import msgspec

from modelyard.bus import logs
from schemas.base import new_id
from schemas.batches import Batch, BatchState, LineError, LineResult
from schemas.errors import BrokerUnavailable, Cancelled, NotFound, ServiceUnavailable, YardError
from schemas.requests import Lane
from services.gateway.batches.files import Files
from services.gateway.batches.lines import Line, read_lines, write_results
from services.gateway.batches.results import Results
from services.gateway.inference.ask import Ask
from services.gateway.inference.inference import Inference

log = logs.get(__name__)

AT_ONCE = 8
"""How many lines of a batch wait or are answered at a time."""
AGAIN_S = 1.0
"""After this a line is asked again that could not be, through no fault of its own."""
LOOK_AGAIN_S = 10.0
"""At most so long a line that was refused for now waits; its batch expires when its own time is over."""
TELL_S = 1.0
"""How often a batch says how far it is."""
_S = BatchState
Change = Callable[..., Awaitable[Batch]]
"""Writes fields of the batch's record, and returns it."""


class Work:
    """One batch in the hands of this gateway."""

    def __init__(
        self, batch: Batch, files: Files, results: Results, inference: Inference, change: Change
    ) -> None:
        self._batch = batch
        self._files = files
        self._results = results
        self._inference = inference
        self._change = change
        self._done = 0
        self._failed = 0

    async def run(self) -> None:
        """Until it has ended, or this is cancelled: another one goes on from what is stored."""
        lines = await self._validated()
        if lines is None:
            return
        if self._batch.state is _S.VALIDATING:
            await self._to(_S.IN_PROGRESS, started_at=time.time(), total=len(lines))
        if self._batch.state is _S.IN_PROGRESS:
            await self._ask_all(lines)
        await self._to(_S.FINALIZING)
        await self._finish(_S.COMPLETED)

    async def stop(self, ending: BatchState) -> None:
        """Its owner cancelled it, or its time is over: what was answered is kept."""
        await self._finish(ending)

    async def _validated(self) -> list[Line] | None:
        try:
            file = await self._files.find(self._batch.input_file, self._batch.key)
        except NotFound as error:
            # Perhaps it was there for long enough that lines were answered.
            await self._finish(_S.FAILED, errors=(LineError(code=error.code, message=error.message),))
            return None
        lines, errors = read_lines(await self._files.read(file), self._batch.endpoint)
        if not errors:
            return lines
        await self._to(_S.FAILED, errors=tuple(errors))
        return None

    async def _ask_all(self, lines: list[Line]) -> None:
        there = await self._results.all()
        self._failed = sum(result.status != 200 for result in there)
        self._done = len(there) - self._failed
        answered = {result.line for result in there}
        todo = collections.deque(line for line in lines if line.number not in answered)
        telling = asyncio.create_task(self._tell())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._ask_some(todo))
        finally:
            telling.cancel()

    async def _ask_some(self, todo: collections.deque[Line]) -> None:
        while todo:
            result = await self._results.store(await self._ask(todo.popleft()))
            self._failed += result.status != 200
            self._done += result.status == 200

    async def _ask(self, line: Line) -> LineResult:
        """One line's answer, good or bad; what is wrong with the yard, and not with it, is waited out."""
        while True:
            request = new_id()
            try:
                status, body = await self._answer(line, request)
            except (BrokerUnavailable, ServiceUnavailable, Cancelled):
                await asyncio.sleep(AGAIN_S)
                continue
            except YardError as error:
                if error.status == 429:
                    # A full queue, or a budget that is used up: that may be raised before its period ends.
                    await asyncio.sleep(min(error.retry_after_s or AGAIN_S, LOOK_AGAIN_S))
                    continue
                status, body = error.status, error.encode()
            return LineResult(
                line=line.number,
                custom_id=line.custom_id,
                request=request,
                status=status,
                body=msgspec.Raw(body),
            )

    async def _answer(self, line: Line, request: str) -> tuple[int, bytes]:
        ask = Ask(
            path=self._batch.endpoint,
            body=line.body,
            model=line.model,
            stream=False,
            lane=Lane.BATCH,
            key=self._batch.key,
            request=request,
        )
        async with self._inference.ask(ask) as answer:
            head = await answer.head()
            return head.status, b"".join([piece async for piece in answer.body()])

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            await self._change(self._batch.batch, completed=self._done, failed=self._failed)

    async def _finish(self, ending: BatchState, **fields: object) -> None:
        """Results become files; the last state is written only when they are there."""
        found = await self._results.all()
        good, bad = write_results(self._batch.batch, found)
        names = {}
        for field, data, name in (("output_file", good, "output"), ("error_file", bad, "errors")):
            if data:
                filename = f"{self._batch.batch}_{name}.jsonl"
                stored = await self._files.put(
                    data,
                    filename,
                    "batch_output",
                    self._batch.key,
                    name=f"file-{self._batch.batch}-{name}",
                )
                names[field] = stored.file
        failed = sum(result.status != 200 for result in found)
        await self._to(ending, completed=len(found) - failed, failed=failed, **names, **fields)
        await self._results.forget()

    async def _to(self, state: BatchState, **fields: object) -> None:
        self._batch = await self._change(self._batch.batch, state=state, changed_at=time.time(), **fields)
        log.info("batch_changed", batch=self._batch.batch, state=state)
