"""`/api/usage/export`: usage as a file of any size, written as it is read."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.usage_table import RECORD_HEADER, record_row, report_table, write_csv
from schemas import subjects
from schemas.errors import BadRequest
from schemas.usage import RecordsQuery, UsageQuery

Q = TypeVar("Q", UsageQuery, RecordsQuery)
_TYPES = {"csv": "text/csv", "json": "application/json"}


class UsageExportApi:
    """The handler. With `by` or `step` it exports sums, else single records."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/usage/export", self.on_export)]

    async def on_export(self, request: web.Request) -> web.StreamResponse:
        parameters: dict[str, Any] = dict(request.query)
        kind = parameters.pop("format", "csv")
        if kind not in _TYPES:
            raise BadRequest(f"`format` is {' or '.join(_TYPES)}, not {kind!r}.", param="format")
        sums = {"by", "step"} & parameters.keys()
        pieces = self._sums(parameters, kind) if sums else self._records(parameters, kind)
        # The first piece is read before the head is sent: an error is an HTTP status.
        first = await anext(pieces)
        disposition = f'attachment; filename="usage.{kind}"'
        headers = {"Content-Disposition": disposition, "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers=headers)
        response.content_type = _TYPES[kind]
        await response.prepare(request)
        await response.write(first.encode())
        async for piece in pieces:
            await response.write(piece.encode())
        await response.write_eof()
        return response

    async def _sums(self, parameters: dict[str, Any], kind: str) -> AsyncIterator[str]:
        by = parameters.get("by")
        fields = {**parameters, **({} if by is None else {"by": [name for name in by.split(",") if name]})}
        query = _query(fields, UsageQuery)
        report = await self._bus.call(subjects.USAGE_QUERY, query)
        header, *rows = report_table(report, query)
        yield (
            write_csv([header, *rows])
            if kind == "csv"
            else _json([dict(zip(map(str, header), row, strict=True)) for row in rows])
        )

    async def _records(self, parameters: dict[str, Any], kind: str) -> AsyncIterator[str]:
        query = _query(parameters, RecordsQuery)
        page = await self._bus.call(subjects.USAGE_RECORDS, query)
        yield write_csv([RECORD_HEADER]) if kind == "csv" else "["
        between = "\n"
        while True:
            rows = [record_row(record, page.currency) for record in page.records]
            if kind == "csv":
                yield write_csv(rows)
            elif rows:
                texts = [_json(dict(zip(RECORD_HEADER, row, strict=True))) for row in rows]
                yield between + ",\n".join(texts)
                between = ",\n"
            if page.next is None:
                break
            query = msgspec.structs.replace(query, after=page.next)
            page = await self._bus.call(subjects.USAGE_RECORDS, query)
        if kind == "json":
            yield "\n]\n"


def _json(content: object) -> str:
    return msgspec.json.encode(content).decode()


def _query(parameters: Mapping[str, Any], kind: type[Q]) -> Q:
    if unknown := parameters.keys() - set(kind.__struct_fields__):
        raise BadRequest(f"`{min(unknown)}` is no parameter of a usage query.", param=min(unknown))
    try:
        # Parameters of a URL are text: numbers and booleans are parsed.
        return msgspec.convert(parameters, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"This is no valid usage query: {error}.") from error
