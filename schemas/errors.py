"""Errors that a caller may see: a stable code, an HTTP status and an actionable sentence, in one shape."""

from typing import ClassVar

import msgspec

from schemas.base import Record


class ErrorDetail(Record):
    """The error in the fields that OpenAI clients read."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(Record):
    """The one shape of an error, over HTTP and over NATS alike."""

    error: ErrorDetail


class YardError(Exception):
    """An error with a message for the caller. Subclasses set `code`, `status` and `type`."""

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


class _HubRefusal(_Invalid):
    """A permanent refusal of the hub; a retry does not help."""


class RepoNotFound(_HubRefusal):
    """No such repository on the hub, or it is private."""

    code, status = "repo_not_found", 404


class GatedRepo(_HubRefusal):
    """The repository is gated: its terms must be accepted first."""

    code, status = "gated_repo", 403


class RepoDisabled(_HubRefusal):
    """The hub has taken the repository down."""

    code, status = "repo_disabled", 403


class RevisionNotFound(_HubRefusal):
    """The repository has no such branch, tag or commit."""

    code, status = "revision_not_found", 404


class EntryNotFound(_HubRefusal):
    """The repository has no such file."""

    code, status = "entry_not_found", 404


class HubTokenRefused(_HubRefusal):
    """The hub does not take the token."""

    code, status = "hub_token_refused", 403


class NoSuchModel(_HubRefusal):
    """The repository has no model that matches the reference."""

    code, status = "no_such_model", 404


class PickleOnly(_HubRefusal):
    """Its weights are pickle files alone, which can hold programs."""

    code, status = "pickle_only", 400


class UnreadableModel(_Invalid):
    """The files are no model that an engine of the yard serves."""

    code, status = "unreadable_model", 400


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


class HubRateLimited(YardError):
    """The hub's rate limit is reached."""

    code, status, type = "hub_rate_limited", 429, "rate_limit_error"


class BudgetExceeded(YardError):
    """A budget is used up until its period ends."""

    code, status, type = "budget_exceeded", 429, "insufficient_quota"


class Cancelled(YardError):
    """The request was cancelled."""

    code, status, type = "cancelled", 499, "cancelled"


class InternalError(YardError):
    """A fault of ours; the log has the details."""

    code, status = "internal_error", 500


class EngineFailed(YardError):
    """The engine died or broke off while it answered."""

    code, status = "engine_failed", 502


class WebhookRefused(YardError):
    """The webhook's receiver rejected the delivery."""

    code, status = "webhook_refused", 502


class HubFailed(YardError):
    """The hub sent an invalid response."""

    code, status = "hub_error", 502


class HubUnreachable(YardError):
    """The hub does not respond."""

    code, status, type = "hub_unreachable", 503, "unavailable_error"


class HubOffline(YardError):
    """Offline mode: this machine must not contact the hub."""

    code, status, type = "hub_offline", 503, "unavailable_error"


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
    """The time limit was exceeded."""

    code, status, type = "deadline_exceeded", 504, "timeout_error"


def _concrete(base: type[YardError]) -> list[type[YardError]]:
    return [leaf for sub in base.__subclasses__() for leaf in ([*_concrete(sub)] or [sub])]


BY_CODE: dict[str, type[YardError]] = {error.code: error for error in _concrete(YardError)}


def from_body(body: ErrorBody) -> YardError:
    """The exception for a received error body; an unknown code (of a newer peer) becomes InternalError."""
    detail = body.error
    return BY_CODE.get(detail.code, InternalError)(detail.message, param=detail.param)


def from_error_body(body: bytes) -> YardError:
    """The exception that an engine's answer stands for; a code of its own makes it a bad request."""
    refused = from_body(msgspec.json.decode(body, type=ErrorBody))
    return refused if type(refused) is not InternalError else BadRequest(refused.message, param=refused.param)
