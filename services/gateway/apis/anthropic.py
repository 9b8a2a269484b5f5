"""Errors as clients of Anthropic's API read them: an envelope, and a type by the status."""

import msgspec

from schemas.errors import ErrorDetail, YardError

PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
"""Paths with errors in Anthropic's shape, whatever part of the yard they come from."""
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: YardError) -> bytes:
    """An error in Anthropic's shape."""
    return detail_body(error.body().error, error.status)


def detail_body(detail: ErrorDetail, status: int) -> bytes:
    """An engine's error with that status in Anthropic's shape."""
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    fields = {"type": kind, "message": detail.message, "code": detail.code, "param": detail.param}
    return msgspec.json.encode({"type": "error", "error": fields})
