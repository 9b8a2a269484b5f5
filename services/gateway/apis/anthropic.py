"""Errors as clients of Anthropic's API read them: theirs tell by `type`, within an envelope."""

import msgspec

from schemas.errors import ErrorDetail, YardError

PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
"""Their errors are said in Anthropic's words, wherever they come from."""
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
    """An error as Anthropic says it."""
    return detail_body(error.body().error, error.status)


def detail_body(detail: ErrorDetail, status: int) -> bytes:
    """The same for what an engine said with that status."""
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    told = {"type": kind, "message": detail.message, "code": detail.code, "param": detail.param}
    return msgspec.json.encode({"type": "error", "error": told})
