"""Every error a caller may see: a stable code, an HTTP status and a sentence to act on, in one shape."""

from typing import ClassVar

import msgspec

from schemas.record import Record


class ErrorDetail(Record):
    """What went wrong, in the fields OpenAI clients read."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(Record):
    """The one shape of an error, over HTTP and over NATS alike."""

    error: ErrorDetail


class YardError(Exception):
    """Something a caller can be told. Subclasses fix `code`, `status` and `type`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        """Seconds after which trying again makes sense; becomes the Retry-After header."""

    def body(self) -> ErrorBody:
        return ErrorBody(
            error=ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        )

    def encode(self) -> bytes:
        return msgspec.json.encode(self.body())


class _Invalid(YardError):
    type = "invalid_request_error"


class BadRequest(_Invalid):
    """The request cannot be understood."""

    code, status = "bad_request", 400


class InvalidJson(_Invalid):
    """The body is not the JSON that this call takes."""

    code, status = "invalid_json", 400


class WrongMode(_Invalid):
    """The model does not serve this path."""

    code, status = "wrong_mode", 400


class NotServed(_Invalid):
    """The engine of this model does not serve this path."""

    code, status = "not_served", 501


class Unauthorized(_Invalid):
    """No valid API key."""

    code, status = "invalid_api_key", 401


class Forbidden(_Invalid):
    """The caller may not do this from there."""

    code, status = "forbidden", 403


class NotFound(_Invalid):
    """No such path or thing."""

    code, status = "not_found", 404


class ModelNotFound(_Invalid):
    """No model has this name or alias."""

    code, status = "model_not_found", 404


class MethodNotAllowed(_Invalid):
    """The path is served, by another method."""

    code, status = "method_not_allowed", 405


class Conflict(_Invalid):
    """The state does not allow this now."""

    code, status = "conflict", 409


class BodyTooLarge(_Invalid):
    """The body is over the limit."""

    code, status = "body_too_large", 413


class QueueFull(YardError):
    """Too many requests wait for this model."""

    code, status, type = "queue_full", 429, "rate_limit_error"


class BudgetExceeded(YardError):
    """A budget is used up until its period ends."""

    code, status, type = "budget_exceeded", 429, "insufficient_quota"


class Cancelled(YardError):
    """Somebody cancelled the request."""

    code, status, type = "cancelled", 499, "cancelled"


class InternalError(YardError):
    """A fault of ours; the log has the details."""

    code, status = "internal_error", 500


class EngineFailed(YardError):
    """The engine died or broke off while it answered."""

    code, status = "engine_failed", 502


class BrokerUnavailable(YardError):
    """NATS cannot be reached now."""

    code, status, type = "broker_unavailable", 503, "unavailable_error"


class ServiceUnavailable(YardError):
    """The service that answers this is not there now."""

    code, status, type = "service_unavailable", 503, "unavailable_error"


class StartFailed(YardError):
    """The model could not be started; the message has the engine's own reason."""

    code, status, type = "model_start_failed", 503, "unavailable_error"


class DeadlineExceeded(YardError):
    """It took longer than allowed."""

    code, status, type = "deadline_exceeded", 504, "timeout_error"


def _concrete(base: type[YardError]) -> list[type[YardError]]:
    return [leaf for sub in base.__subclasses__() for leaf in ([*_concrete(sub)] or [sub])]


BY_CODE: dict[str, type[YardError]] = {error.code: error for error in _concrete(YardError)}


def from_body(body: ErrorBody) -> YardError:
    """The exception that a received error stands for; an unknown code (a newer peer) is an internal error."""
    detail = body.error
    return BY_CODE.get(detail.code, InternalError)(detail.message, param=detail.param)


def from_error_body(body: bytes) -> YardError:
    """The exception that an engine's answer stands for; a code of its own makes it a bad request."""
    refused = from_body(msgspec.json.decode(body, type=ErrorBody))
    return refused if type(refused) is not InternalError else BadRequest(refused.message, param=refused.param)
