"""Execution of one batch: line after line through the queue, from whatever results are stored."""

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
from services.gateway.batches.lines import Line, read_lines, write_results
from services.gateway.batches.storage import FileStore, ResultStore
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import InferRequest

log = logs.get(__name__)

PARALLEL_LINES = 8
"""How many lines of a batch are queued or answered at a time."""
RETRY_DELAY_S = 1.0
MAX_RETRY_DELAY_S = 10.0
"""The longest wait after a refusal that is not final; a batch expires when its own time is over."""
PROGRESS_INTERVAL_S = 1.0
_S = BatchState
ChangeBatch = Callable[..., Awaitable[Batch]]
"""Writes fields of the batch's record, and returns it."""


class BatchExecution:
    def __init__(
        self, batch: Batch, files: FileStore, results: ResultStore, inference: Inference, change: ChangeBatch
    ) -> None:
        self._batch = batch
        self._files = files
        self._results = results
        self._inference = inference
        self._change = change
        self._completed = 0
        self._failed = 0

    async def run(self) -> None:
        """Execute the batch; after a cancel another execution continues from what is stored."""
        lines = await self._validate()
        if lines is None:
            return
        if self._batch.state is _S.VALIDATING:
            await self._set_state(_S.IN_PROGRESS, started_at=time.time(), total=len(lines))
        if self._batch.state is _S.IN_PROGRESS:
            await self._execute_lines(lines)
        await self._set_state(_S.FINALIZING)
        await self.finish(_S.COMPLETED)

    async def _validate(self) -> list[Line] | None:
        try:
            file = await self._files.find(self._batch.input_file, self._batch.key)
        except NotFound as error:
            # It may have been there long enough that lines were answered.
            await self.finish(_S.FAILED, errors=(LineError(code=error.code, message=error.message),))
            return None
        lines, errors = read_lines(await self._files.read(file), self._batch.endpoint)
        if not errors:
            return lines
        await self._set_state(_S.FAILED, errors=tuple(errors))
        return None

    async def _execute_lines(self, lines: list[Line]) -> None:
        stored = await self._results.all()
        self._failed = sum(result.status != 200 for result in stored)
        self._completed = len(stored) - self._failed
        answered = {result.line for result in stored}
        open_lines = collections.deque(line for line in lines if line.number not in answered)
        progress = asyncio.create_task(self._write_progress())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARALLEL_LINES):
                    group.create_task(self._execute_from(open_lines))
        finally:
            progress.cancel()

    async def _execute_from(self, open_lines: collections.deque[Line]) -> None:
        while open_lines:
            result = await self._results.store(await self._execute(open_lines.popleft()))
            self._failed += result.status != 200
            self._completed += result.status == 200

    async def _execute(self, line: Line) -> LineResult:
        """The result of a line, good or bad; retried while the cause is the yard and not the line."""
        while True:
            request = new_id()
            try:
                status, body = await self._infer(line, request)
            except (BrokerUnavailable, ServiceUnavailable, Cancelled):
                await asyncio.sleep(RETRY_DELAY_S)
                continue
            except YardError as error:
                if error.status == 429:
                    # A full queue, or a budget that is used up: its limit may be raised.
                    await asyncio.sleep(min(error.retry_after_s or RETRY_DELAY_S, MAX_RETRY_DELAY_S))
                    continue
                status, body = error.status, error.encode()
            return LineResult(
                line=line.number,
                custom_id=line.custom_id,
                request=request,
                status=status,
                body=msgspec.Raw(body),
            )

    async def _infer(self, line: Line, request_id: str) -> tuple[int, bytes]:
        request = InferRequest(
            path=self._batch.endpoint,
            body=line.body,
            model=line.model,
            stream=False,
            lane=Lane.BATCH,
            key=self._batch.key,
            id=request_id,
        )
        async with self._inference.submit(request) as answer:
            head = await answer.head()
            return head.status, await answer.read_all()

    async def _write_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            await self._change(self._batch.batch, completed=self._completed, failed=self._failed)

    async def finish(self, state: BatchState, **fields: object) -> None:
        """Write the results into files, and only then the last state."""
        results = await self._results.all()
        output, errors = write_results(self._batch.batch, results)
        names = {}
        for field, data, kind in (("output_file", output, "output"), ("error_file", errors, "errors")):
            if data:
                filename, name = f"{self._batch.batch}_{kind}.jsonl", f"file-{self._batch.batch}-{kind}"
                stored = await self._files.put(data, filename, "batch_output", self._batch.key, name=name)
                names[field] = stored.file
        failed = sum(result.status != 200 for result in results)
        await self._set_state(state, completed=len(results) - failed, failed=failed, **names, **fields)
        await self._results.delete_all()

    async def _set_state(self, state: BatchState, **fields: object) -> None:
        self._batch = await self._change(self._batch.batch, state=state, changed_at=time.time(), **fields)
        log.info("batch_changed", batch=self._batch.batch, state=state)
