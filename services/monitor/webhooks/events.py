"""Events for webhooks: which events of the yard are sent, and as which text and data. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from schemas import subjects
from schemas.alerts import Alert, AlertState, Severity
from schemas.downloads import Download, DownloadState
from schemas.instances import Instance, InstanceState, Reason
from schemas.subject import AnySubject
from schemas.webhooks import HookEvent, WebhookFilter

_E = HookEvent
_SEVERITIES = list(Severity)

_FILTERS: dict[HookEvent, str] = {
    _E.DOWNLOADED: subjects.DOWNLOAD_CHANGED.matching(state=DownloadState.FINISHED),
    _E.DOWNLOAD_FAILED: subjects.DOWNLOAD_CHANGED.matching(state=DownloadState.FAILED),
    _E.READY: subjects.INSTANCE_CHANGED.matching(state=InstanceState.READY),
    _E.STOPPED: subjects.INSTANCE_CHANGED.matching(state=InstanceState.STOPPED),
    _E.EVICTED: subjects.INSTANCE_CHANGED.matching(state=InstanceState.STOPPED),
    _E.CRASHED: subjects.INSTANCE_CHANGED.matching(state=InstanceState.FAILED),
    _E.ALERT_FIRING: subjects.ALERT_CHANGED.matching(state=AlertState.FIRING),
    _E.ALERT_RESOLVED: subjects.ALERT_CHANGED.matching(state=AlertState.RESOLVED),
}


class WebhookEvent(NamedTuple):
    id: str
    """The same in every attempt: receivers deduplicate by it."""
    kind: HookEvent
    at: str
    """RFC 3339."""
    source: str
    text: str
    """One sentence for people."""
    data: dict[str, Any]
    model: str | None = None
    severity: Severity | None = None
    """Of an alert."""

    def body(self) -> bytes:
        cloud_event = {
            "specversion": "1.0",
            "id": self.id,
            "type": f"modelyard.{self.kind}",
            "source": self.source,
            "time": self.at,
            "datacontenttype": "application/json",
            "text": self.text,
            "data": self.data,
        }
        return msgspec.json.encode(cloud_event)


def filter_subjects(webhook_filter: WebhookFilter) -> list[str]:
    events = webhook_filter.events or tuple(_FILTERS)
    return sorted({_FILTERS[event] for event in events if event in _FILTERS})


def matches(event: WebhookEvent, webhook_filter: WebhookFilter) -> bool:
    """Whether a webhook gets the event. An event without a model passes every filter of models."""
    if webhook_filter.events and event.kind not in webhook_filter.events:
        return False
    if webhook_filter.models and event.model is not None and event.model not in webhook_filter.models:
        return False
    severity = event.severity
    return severity is None or _SEVERITIES.index(severity) >= _SEVERITIES.index(webhook_filter.severity)


def decode_event(subject: str, headers: Mapping[str, str], data: bytes) -> WebhookEvent | None:
    """The webhook event of a stored event; None if it has none. ValueError if it cannot be decoded."""
    for source, describe in _DESCRIBE:
        if subject.startswith(source.wildcard.split("*")[0]):
            kind, text, facts = describe(source.decode(data)) or (None, "", {})
            if kind is None:
                return None
            return WebhookEvent(
                id=headers.get("ce-id", subject),
                kind=kind,
                at=headers.get("ce-time", ""),
                source=headers.get("ce-source", "/modelyard"),
                text=text,
                data=facts,
                model=facts.get("model") or facts.get("labels", {}).get("model"),
                severity=Severity(facts["severity"]) if "severity" in facts else None,
            )
    return None


_Description = tuple[HookEvent, str, dict[str, Any]] | None


def _download(download: Download) -> _Description:
    facts = _facts(download, "download", "model", "reference", "quant", "bytes_total", "error")
    if download.state is DownloadState.FINISHED:
        return _E.DOWNLOADED, f"{download.model} is downloaded.", facts
    why = download.error.message if download.error else "It failed."
    return _E.DOWNLOAD_FAILED, f"{download.model} could not be downloaded: {why}", facts


def _instance(instance: Instance) -> _Description:
    facts = _facts(
        instance, "model", "instance", "node", "engine", "profile", "state", "reason", "error", "load_s"
    )
    where = f"{instance.model} on {instance.node}"
    if instance.state is InstanceState.READY:
        return _E.READY, f"{where} is ready.", facts
    if instance.state is InstanceState.FAILED:
        why = (instance.error or "It exited.").splitlines()[0]
        return _E.CRASHED, f"{where} failed: {why}", facts
    if instance.state is not InstanceState.STOPPED:
        return None
    if instance.reason is Reason.EVICTED:
        return _E.EVICTED, f"{where} was evicted for another model.", facts
    return _E.STOPPED, f"{where} was stopped ({instance.reason}).", facts


def _alert(alert: Alert) -> _Description:
    if alert.silenced is not None:
        return None
    facts = _facts(
        *(alert, "alert", "rule", "state", "severity", "sentence"), *("value", "labels", "since", "fired_at")
    )
    if alert.state is AlertState.FIRING:
        return _E.ALERT_FIRING, f"{alert.severity}: {alert.sentence}", facts
    if alert.state is AlertState.RESOLVED:
        return _E.ALERT_RESOLVED, f"Over: {alert.sentence}", facts
    return None


def _facts(record: msgspec.Struct, *names: str) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(record, name)) for name in names}


_DESCRIBE: tuple[tuple[AnySubject, Callable[[Any], _Description]], ...] = (
    (subjects.DOWNLOAD_CHANGED, _download),
    (subjects.INSTANCE_CHANGED, _instance),
    (subjects.ALERT_CHANGED, _alert),
)


def make_test_event(name: str, event_id: str, source: str) -> WebhookEvent:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return WebhookEvent(event_id, _E.TEST, now, source, "A test event of Modelyard.", {"webhook": name})
