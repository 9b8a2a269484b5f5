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
    """An error with a message for the caller. Subclasses declare `code`, `status` and `kind` (the `type`)."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init_subclass__(cls, code: str = "", status: int = 0, kind: str = "") -> None:
        cls.code, cls.status, cls.type = code or cls.code, status or cls.status, kind or cls.type

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


class _Invalid(YardError, kind="invalid_request_error"):
    """The request is at fault."""


class BadRequest(_Invalid, code="bad_request", status=400):
    """The request cannot be understood."""


class InvalidJson(_Invalid, code="invalid_json", status=400):
    """The body is not the JSON that this call takes."""


class WrongMode(_Invalid, code="wrong_mode", status=400):
    """The model does not serve this path."""


class NotServed(_Invalid, code="not_served", status=501):
    """The engine of this model does not serve this path."""


class Unauthorized(_Invalid, code="invalid_api_key", status=401):
    """No valid API key."""


class Forbidden(_Invalid, code="forbidden", status=403):
    """The caller may not do this from there."""


class NotFound(_Invalid, code="not_found", status=404):
    """No such path or thing."""


class ModelNotFound(_Invalid, code="model_not_found", status=404):
    """No model has this name or alias."""


class _HubRefusal(_Invalid):
    """A permanent refusal of the hub; a retry does not help."""


class RepoNotFound(_HubRefusal, code="repo_not_found", status=404):
    """No such repository on the hub, or it is private."""


class GatedRepo(_HubRefusal, code="gated_repo", status=403):
    """The repository is gated: its terms must be accepted first."""


class RepoDisabled(_HubRefusal, code="repo_disabled", status=403):
    """The hub has taken the repository down."""


class RevisionNotFound(_HubRefusal, code="revision_not_found", status=404):
    """The repository has no such branch, tag or commit."""


class EntryNotFound(_HubRefusal, code="entry_not_found", status=404):
    """The repository has no such file."""


class HubTokenRefused(_HubRefusal, code="hub_token_refused", status=403):
    """The hub does not take the token."""


class NoSuchModel(_HubRefusal, code="no_such_model", status=404):
    """The repository has no model that matches the reference."""


class PickleOnly(_HubRefusal, code="pickle_only", status=400):
    """Its weights are pickle files alone, which can hold programs."""


class UnreadableModel(_Invalid, code="unreadable_model", status=400):
    """The files are no model that an engine of the yard serves."""


class MethodNotAllowed(_Invalid, code="method_not_allowed", status=405):
    """The path is served, by another method."""


class Conflict(_Invalid, code="conflict", status=409):
    """The state does not allow this now."""


class BodyTooLarge(_Invalid, code="body_too_large", status=413):
    """The body is over the limit."""


class QueueFull(YardError, code="queue_full", status=429, kind="rate_limit_error"):
    """Too many requests wait for this model."""


class HubRateLimited(YardError, code="hub_rate_limited", status=429, kind="rate_limit_error"):
    """The hub's rate limit is reached."""


class BudgetExceeded(YardError, code="budget_exceeded", status=429, kind="insufficient_quota"):
    """A budget is used up until its period ends."""


class Cancelled(YardError, code="cancelled", status=499, kind="cancelled"):
    """The request was cancelled."""


class InternalError(YardError, code="internal_error", status=500):
    """A fault of ours; the log has the details."""


class EngineFailed(YardError, code="engine_failed", status=502):
    """The engine died or broke off while it answered."""


class WebhookRefused(YardError, code="webhook_refused", status=502):
    """The webhook's receiver rejected the delivery."""


class HubFailed(YardError, code="hub_error", status=502):
    """The hub sent an invalid response."""


class HubUnreachable(YardError, code="hub_unreachable", status=503, kind="unavailable_error"):
    """The hub does not respond."""


class HubOffline(YardError, code="hub_offline", status=503, kind="unavailable_error"):
    """Offline mode: this machine must not contact the hub."""


class BrokerUnavailable(YardError, code="broker_unavailable", status=503, kind="unavailable_error"):
    """NATS cannot be reached now."""


class ServiceUnavailable(YardError, code="service_unavailable", status=503, kind="unavailable_error"):
    """The service that answers this is not there now."""


class StartFailed(YardError, code="model_start_failed", status=503, kind="unavailable_error"):
    """The model could not be started; the message has the engine's own reason."""


class DeadlineExceeded(YardError, code="deadline_exceeded", status=504, kind="timeout_error"):
    """The time limit was exceeded."""


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
