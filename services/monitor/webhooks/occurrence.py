"""What of the yard's events is told to others, and in which words. Pure."""

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


class Occurrence(NamedTuple):
    """Something that happened, as it is told."""

    id: str
    """The same however often it is told; who hears it twice knows it by this."""
    event: HookEvent
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
        """A CloudEvent in structured JSON, with `text` beside its attributes."""
        event = {
            "specversion": "1.0",
            "id": self.id,
            "type": f"modelyard.{self.event}",
            "source": self.source,
            "time": self.at,
            "datacontenttype": "application/json",
            "text": self.text,
            "data": self.data,
        }
        return msgspec.json.encode(event)


def filters(wanted: WebhookFilter) -> list[str]:
    """The subjects that a hook has to hear, each once."""
    events = wanted.events or tuple(_FILTERS)
    return sorted({_FILTERS[event] for event in events if event in _FILTERS})


def is_wanted(occurrence: Occurrence, wanted: WebhookFilter) -> bool:
    """Whether a hook is to be told. What concerns no model is for every hook."""
    if wanted.events and occurrence.event not in wanted.events:
        return False
    if wanted.models and occurrence.model is not None and occurrence.model not in wanted.models:
        return False
    bad = occurrence.severity
    return bad is None or _SEVERITIES.index(bad) >= _SEVERITIES.index(wanted.severity)


def occurrence_of(subject: str, headers: Mapping[str, str], data: bytes) -> Occurrence | None:
    """What an event of the stream tells; None if nobody is told. ValueError if it cannot be read."""
    for source, told in _TOLD:
        if subject.startswith(source.wildcard.split("*")[0]):
            event, text, facts = told(source.decode(data)) or (None, "", {})
            if event is None:
                return None
            return Occurrence(
                id=headers.get("ce-id", subject),
                event=event,
                at=headers.get("ce-time", ""),
                source=headers.get("ce-source", "/modelyard"),
                text=text,
                data=facts,
                model=facts.get("model") or facts.get("labels", {}).get("model"),
                severity=Severity(facts["severity"]) if "severity" in facts else None,
            )
    return None


Told = tuple[HookEvent, str, dict[str, Any]] | None


def _download(download: Download) -> Told:
    facts = _facts(download, "download", "model", "reference", "quant", "bytes_total", "error")
    if download.state is DownloadState.FINISHED:
        return _E.DOWNLOADED, f"{download.model} is downloaded.", facts
    why = download.error.message if download.error else "It failed."
    return _E.DOWNLOAD_FAILED, f"{download.model} could not be downloaded: {why}", facts


def _instance(instance: Instance) -> Told:
    facts = _facts(
        instance, "model", "instance", "node", "engine", "profile", "state", "reason", "error", "load_s"
    )
    where = f"{instance.model} on {instance.node}"
    if instance.state is InstanceState.READY:
        return _E.READY, f"{where} is ready.", facts
    if instance.state is InstanceState.FAILED:
        why = (instance.error or "It ended by itself.").splitlines()[0]
        return _E.CRASHED, f"{where} failed: {why}", facts
    if instance.state is not InstanceState.STOPPED:
        return None
    if instance.reason is Reason.EVICTED:
        return _E.EVICTED, f"{where} made room for another model.", facts
    return _E.STOPPED, f"{where} was stopped ({instance.reason}).", facts


def _alert(alert: Alert) -> Told:
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


_TOLD: tuple[tuple[AnySubject, Callable[[Any], Told]], ...] = (
    (subjects.DOWNLOAD_CHANGED, _download),
    (subjects.INSTANCE_CHANGED, _instance),
    (subjects.ALERT_CHANGED, _alert),
)


def trial(name: str, number: str, source: str) -> Occurrence:
    """Something harmless, to see whether a hook hears."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return Occurrence(
        number, _E.TEST, now, source, "Modelyard tries whether this arrives.", {"webhook": name}
    )
