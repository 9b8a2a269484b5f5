"""Webhooks: events of the yard, delivered to URLs and programs."""

from enum import StrEnum

from schemas.alerts import Severity
from schemas.base import Record, check_token

ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"
"""Signature of standardwebhooks.com: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."""
SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
MAX_NAME = 40


class HookEvent(StrEnum):
    """Deliverable events."""

    DOWNLOADED = "model.downloaded"
    DOWNLOAD_FAILED = "download.failed"
    READY = "model.ready"
    STOPPED = "model.stopped"
    EVICTED = "model.evicted"
    CRASHED = "model.crashed"
    ALERT_FIRING = "alert.firing"
    ALERT_RESOLVED = "alert.resolved"
    TEST = "test"
    """A test delivery."""


class HookKind(StrEnum):
    """The kind of a hook."""

    HTTP = "http"
    COMMAND = "command"
    """A program on the first machine. Only a file there can name one."""


def check_hook_name(name: str) -> None:
    """ValueError if a hook may not be called so."""
    check_token(name)
    if len(name) > MAX_NAME or "=" in name:
        raise ValueError(f"the name of a hook has at most {MAX_NAME} letters, digits, '_' and '-'")


class WebhookFilter(Record):
    """Which events a hook receives."""

    events: tuple[HookEvent, ...] = ()
    """None: all."""
    models: tuple[str, ...] = ()
    """Empty: all. Events without a model always match."""
    severity: Severity = Severity.INFO
    """Minimum severity of alerts."""


class Webhook(Record):
    """The public part of a hook: without its secret and the path of its URL, which may be one."""

    name: str
    kind: HookKind
    target: str
    """Scheme and host, or the name of the program."""
    wanted: WebhookFilter
    created_at: float


class PutWebhook(Record):
    """Deliver to this URL. Replaces an existing hook of this name."""

    name: str
    url: str
    wanted: WebhookFilter = WebhookFilter()
    secret: str | None = None
    """`whsec_` and base64 of 24 to 64 bytes; None: keep the existing one, or generate one."""

    def __post_init__(self) -> None:
        check_hook_name(self.name)


class WebhookStored(Record):
    """The hook; its secret is shown this once."""

    webhook: Webhook
    secret: str | None = None
    """None: the existing one is unchanged."""


class WebhookRef(Record):
    """Which hook."""

    name: str


class DeadLetter(Record):
    """A delivery that was given up."""

    id: str
    event: HookEvent
    at: float
    """Unix seconds when it was given up."""
    attempts: int
    error: str


class WebhookState(Record):
    """The delivery state of a hook."""

    name: str
    delivered: int = 0
    delivered_at: float | None = None
    failing_since: float | None = None
    """None: its last delivery went well."""
    error: str | None = None
    dead: tuple[DeadLetter, ...] = ()
    """The newest first."""


class WebhookRecord(Record):
    """A hook and how it does."""

    webhook: Webhook
    state: WebhookState


class ListWebhooks(Record):
    """Lists all hooks."""


class WebhookList(Record):
    """The hooks by name."""

    webhooks: tuple[WebhookRecord, ...]


class WebhookTested(Record):
    """The result of a test delivery."""

    delivered: bool
    error: str | None = None
