"""Errors out of bytes: in the one shape, in an engine's own, or none where an answer ends too early."""

import msgspec

from schemas.base import Record
from schemas.errors import BY_CODE, BadRequest, EngineFailed, ErrorBody, ErrorDetail, YardError, from_body

_MAX_QUOTED_BYTES = 300


class _EngineErrorDetail(Record):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class _EngineErrorBody(Record):
    error: _EngineErrorDetail


def engine_error(data: bytes, status: int) -> ErrorDetail:
    """An engine's own error in the one shape: its message, its type as the code."""
    try:
        error = msgspec.json.decode(data, type=_EngineErrorBody).error
    except msgspec.DecodeError:
        text = data[:_MAX_QUOTED_BYTES].decode(errors="replace").strip() or "nothing"
        return EngineFailed(f"The engine answered {status}: {text}.").body().error
    kind = error.type or ("invalid_request_error" if status < 500 else "server_error")
    code = error.code if isinstance(error.code, str) else kind
    return ErrorDetail(
        message=error.message or f"The engine answered {status}.", type=kind, param=error.param, code=code
    )


def read_error(data: bytes) -> YardError | None:
    """The error that `data` is in the one shape; a code that only the engine defines is a bad request."""
    try:
        body = msgspec.json.decode(data, type=ErrorBody)
    except msgspec.DecodeError:
        return None
    return from_body(body) if body.error.code in BY_CODE else BadRequest(body.error.message)


def incomplete_answer(rest: bytes) -> YardError:
    """Why a stream ended without its last event: an engine refuses a request in plain JSON, as `rest`."""
    return read_error(rest) or EngineFailed("The answer ended before it was complete.")
