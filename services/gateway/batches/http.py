"""`/v1/files` and `/v1/batches`, as OpenAI has them."""

from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from schemas.base import Record
from schemas.batches import Batch, StoredFile
from schemas.errors import BadRequest
from schemas.requests import BY_PATH
from services.gateway.batches.batches import BatchService
from services.gateway.batches.storage import FileStore
from services.gateway.http import KEY_ID, json_response, read_body

Json = dict[str, Any]
_PAGE = 20
_MAX_BATCHES, _MAX_FILES = 100, 10_000


class _CreateBatch(Record):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class BatchApi:
    """Handlers. Files and batches belong to the API key that created them."""

    def __init__(self, files: FileStore, batches: BatchService) -> None:
        self._files = files
        self._batches = batches

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.on_upload),
            web.get("/v1/files", self.on_files),
            web.get("/v1/files/{file}", self.on_file),
            web.get("/v1/files/{file}/content", self.on_content),
            web.delete("/v1/files/{file}", self.on_delete),
            web.post("/v1/batches", self.on_create),
            web.get("/v1/batches", self.on_batches),
            web.get("/v1/batches/{batch}", self.on_batch),
            web.post("/v1/batches/{batch}/cancel", self.on_cancel),
        ]

    async def on_upload(self, request: web.Request) -> web.Response:
        try:
            form = await request.post()
        except (ValueError, HttpProcessingError) as error:
            raise BadRequest(f"The form cannot be read: {error}.") from error
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or not isinstance(purpose, str):
            raise BadRequest("The form needs a `file` and a `purpose`.")
        stored = await self._files.put(file.file.read(), file.filename, purpose, request.get(KEY_ID))
        return json_response(file_object(stored))

    async def on_files(self, request: web.Request) -> web.Response:
        files = self._files.all(request.get(KEY_ID))
        if purpose := request.query.get("purpose"):
            files = [file for file in files if file.purpose == purpose]
        if request.query.get("order") == "asc":
            files.reverse()
        return json_response(page([file_object(file) for file in files], request, _MAX_FILES))

    async def on_file(self, request: web.Request) -> web.Response:
        return json_response(file_object(await self._file(request)))

    async def on_content(self, request: web.Request) -> web.Response:
        data = await self._files.read(await self._file(request))
        return web.Response(body=data, content_type="application/octet-stream")

    async def on_delete(self, request: web.Request) -> web.Response:
        file = await self._file(request)
        self._batches.check_not_needed(file.file)
        await self._files.delete(file)
        return json_response({"id": file.file, "object": "file", "deleted": True})

    async def _file(self, request: web.Request) -> StoredFile:
        return await self._files.find(request.match_info["file"], request.get(KEY_ID))

    async def on_create(self, request: web.Request) -> web.Response:
        create = await read_body(request, _CreateBatch)
        if create.endpoint not in BY_PATH:
            raise BadRequest(f"A batch cannot use {create.endpoint}.", param="endpoint")
        batch = await self._batches.create(
            create.endpoint,
            create.input_file_id,
            create.completion_window,
            create.metadata,
            request.get(KEY_ID),
        )
        return json_response(batch_object(batch))

    async def on_batches(self, request: web.Request) -> web.Response:
        batches = self._batches.all(request.get(KEY_ID))
        return json_response(page([batch_object(batch) for batch in batches], request, _MAX_BATCHES))

    async def on_batch(self, request: web.Request) -> web.Response:
        batch = await self._batches.find(request.match_info["batch"], request.get(KEY_ID))
        return json_response(batch_object(batch))

    async def on_cancel(self, request: web.Request) -> web.Response:
        batch = await self._batches.cancel(request.match_info["batch"], request.get(KEY_ID))
        return json_response(batch_object(batch))


def page(entries: list[Json], request: web.Request, max_entries: int) -> Json:
    after, limit = request.query.get("after"), request.query.get("limit", str(_PAGE))
    if not limit.isdecimal() or not 1 <= int(limit) <= max_entries:
        raise BadRequest(f"`limit` must be from 1 to {max_entries}.", param="limit")
    start = next((number + 1 for number, entry in enumerate(entries) if entry["id"] == after), 0)
    shown = entries[start : start + int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + int(limit) < len(entries),
    }


def file_object(file: StoredFile) -> Json:
    return {
        "id": file.file,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def batch_object(batch: Batch) -> Json:
    changed = {f"{batch.state}_at": int(batch.changed_at)}
    return {
        "id": batch.batch,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file,
        "completion_window": batch.completion_window,
        "status": batch.state,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": int(batch.created_at),
        "in_progress_at": int(batch.started_at) if batch.started_at else None,
        "expires_at": int(batch.expires_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
        **changed,
    }
