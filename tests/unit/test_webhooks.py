"""Webhook events, their filters and signatures, back-off, and the file of programs."""

import base64
import hashlib
import hmac
from pathlib import Path

import msgspec
import pytest

from modelyard.host.hooks_file import CommandHook, HooksFileError, hooks_path, read_hooks, write_hooks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.alerts import Alert, AlertState, Severity
from schemas.downloads import Download, DownloadState
from schemas.errors import BadRequest
from schemas.instances import Instance, InstanceState, Reason
from schemas.webhooks import HookEvent, WebhookFilter
from services.monitor.webhooks.delivery import BACKOFF_S, MAX_ATTEMPTS, backoff_s
from services.monitor.webhooks.events import WebhookEvent, decode_event, filter_subjects, matches
from services.monitor.webhooks.secrets import check_secret, new_secret, signature_headers
from services.monitor.webhooks.senders import check_url, public_part
from tests.standins import instance

HEADERS = {"ce-id": "e1", "ce-time": "2026-01-01T00:00:00Z", "ce-source": "/modelyard/n/runner"}


def of_instance(state: InstanceState, reason: Reason = Reason.REQUESTED) -> WebhookEvent | None:
    record: Instance = msgspec.structs.replace(instance("i1", "demo", state), reason=reason, error="No.\nx")
    subject = subjects.INSTANCE_CHANGED(instance="i1", state=state)
    return decode_event(subject, HEADERS, msgspec.json.encode(record))


@pytest.mark.parametrize(
    ("state", "reason", "kind"),
    [
        (InstanceState.READY, Reason.REQUESTED, HookEvent.READY),
        (InstanceState.STOPPED, Reason.EVICTED, HookEvent.EVICTED),
        (InstanceState.STOPPED, Reason.IDLE, HookEvent.STOPPED),
        (InstanceState.FAILED, Reason.OOM, HookEvent.CRASHED),
        (InstanceState.LOADING, Reason.REQUESTED, None),
    ],
)
def test_states_of_instances_are_events(state: InstanceState, reason: Reason, kind: HookEvent | None) -> None:
    event = of_instance(state, reason)
    assert (event.kind if event else None) == kind
    if event:
        assert (event.id, event.model, event.data["reason"]) == ("e1", "demo", reason)
        assert "\n" not in event.text


@pytest.mark.parametrize(
    ("state", "kind"),
    [(DownloadState.FINISHED, HookEvent.DOWNLOADED), (DownloadState.FAILED, HookEvent.DOWNLOAD_FAILED)],
)
def test_ends_of_downloads_are_events(state: DownloadState, kind: HookEvent) -> None:
    record = Download(
        download="d1", reference="org/m", model="org/m", state=state, created_at=1, changed_at=1
    )
    subject = subjects.DOWNLOAD_CHANGED(download="d1", state=state)
    event = decode_event(subject, HEADERS, msgspec.json.encode(record))
    assert event is not None
    assert event.kind is kind


def alert(state: AlertState, **more: object) -> Alert:
    fields = {
        "alert": "a1",
        "rule": "hot",
        "labels": {"node": "n"},
        "state": state,
        "severity": "warning",
        "sentence": "Hot.",
        "value": 91.0,
        "since": 1.0,
        "changed_at": 2.0,
        "seen_at": 2.0,
        **more,
    }
    return msgspec.convert(fields, Alert)


def of_alert(record: Alert) -> WebhookEvent | None:
    subject = subjects.ALERT_CHANGED(alert="a1", state=record.state)
    return decode_event(subject, HEADERS, msgspec.json.encode(record))


def test_pending_and_silenced_alerts_are_no_events() -> None:
    firing = of_alert(alert(AlertState.FIRING))
    assert firing is not None
    assert (firing.kind, firing.severity, firing.text) == (
        HookEvent.ALERT_FIRING,
        Severity.WARNING,
        "warning: Hot.",
    )
    assert of_alert(alert(AlertState.PENDING)) is None
    assert of_alert(alert(AlertState.FIRING, silenced="s1")) is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"events": ["alert.firing"]}, True),
        ({"events": ["alert.resolved"]}, False),
        ({"severity": "warning"}, True),
        ({"severity": "critical"}, False),
        ({"models": ["demo"]}, True),
    ],
)
def test_filters_of_events_models_and_severity(wanted: dict[str, object], expected: bool) -> None:
    event = of_alert(alert(AlertState.FIRING))
    assert event is not None
    assert matches(event, msgspec.convert(wanted, WebhookFilter)) is expected


def test_a_filter_of_models_excludes_other_models() -> None:
    event = of_instance(InstanceState.READY)
    assert event is not None
    assert matches(event, WebhookFilter(models=("demo", "b")))
    assert not matches(event, WebhookFilter(models=("b",)))
    of_model = of_alert(alert(AlertState.FIRING, labels={"model": "demo"}))
    assert of_model is not None
    assert not matches(of_model, WebhookFilter(models=("b",)))


def test_a_consumer_filters_the_subjects_of_its_events() -> None:
    ready_and_evicted = WebhookFilter(events=(HookEvent.READY, HookEvent.EVICTED))
    assert filter_subjects(ready_and_evicted) == [
        "yard.event.instance.*.ready",
        "yard.event.instance.*.stopped",
    ]
    assert len(filter_subjects(WebhookFilter())) == 7


def test_the_body_is_a_cloud_event() -> None:
    event = of_instance(InstanceState.READY)
    assert event is not None
    body = msgspec.json.decode(event.body())
    assert (body["specversion"], body["id"], body["type"]) == ("1.0", "e1", "modelyard.model.ready")
    assert body["data"]["model"] == "demo"
    assert body["text"] == "demo on testnode is ready."


def test_signatures_follow_standard_webhooks() -> None:
    """The example of the specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = signature_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    other = hmac.new(raw, b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265331." + body, hashlib.sha256).digest()
    assert base64.b64encode(other).decode() not in headers["webhook-signature"]


def test_secrets_are_random_and_errors_do_not_repeat_them() -> None:
    assert check_secret(new_secret()) != new_secret()
    for bad in ("", "whsec_", "whsec_c2hvcnQ=", "secret", "whsec_!!!", "whsec_" + "A" * 400):
        with pytest.raises(BadRequest) as caught:
            check_secret(bad)
        assert len(bad) < 8 or bad not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        *("", "ftp://h/", "http://", "nothing", "file:///etc/passwd", "http://169.254.169.254/latest"),
        *("http://[fe80::1]/", "http://[::ffff:169.254.1.1]/", "http://h:99999/", "http://h/" + "x" * 2000),
        *("http://" + "a" * 70 + ".example/", "http://a..b/"),
    ],
)
def test_forbidden_urls_are_refused(bad: str) -> None:
    with pytest.raises(BadRequest):
        check_url(bad)


def test_only_the_origin_of_a_url_is_public() -> None:
    assert (
        public_part(check_url("https://user:pw@hooks.example:8443/T0/s3cret?x=y"))
        == "https://hooks.example:8443"
    )
    for private in ("http://127.0.0.1:9/x", "http://192.168.1.2/x", "http://localhost/x"):
        assert check_url(private)


def test_backoff_grows_with_jitter_and_a_limit() -> None:
    assert [backoff_s(attempt, spread=0.5) for attempt in range(1, MAX_ATTEMPTS)] == list(BACKOFF_S)
    assert backoff_s(1, spread=0) == pytest.approx(0.8)
    assert backoff_s(1, spread=1) == pytest.approx(1.2)
    assert backoff_s(99, spread=0.5) == BACKOFF_S[-1]
    assert backoff_s(1, 30.0) == 30.0
    assert backoff_s(1, 1e9) == 3600.0
    assert 12 * 3600 < sum(BACKOFF_S) < 24 * 3600


def test_the_hooks_file_must_belong_to_its_user_alone(settings: Settings) -> None:
    assert read_hooks(settings) == ()
    hook = CommandHook(
        name="bell", argv=("/bin/true", "a b"), wanted=WebhookFilter(events=(HookEvent.READY,))
    )
    write_hooks(settings, [hook])
    assert read_hooks(settings) == (hook,)
    assert hooks_path(settings).stat().st_mode & 0o777 == 0o600
    hooks_path(settings).chmod(0o666)
    with pytest.raises(HooksFileError, match="written by others"):
        read_hooks(settings)


@pytest.mark.parametrize(
    "text",
    ["nonsense", '[[hook]]\nname="a"\nargv=["sh"]', '[[hook]]\nname="a b"\nargv=["/bin/sh"]', "\udcff"],
)
def test_an_invalid_hooks_file_is_refused(settings: Settings, text: str) -> None:
    path: Path = hooks_path(settings)
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(HooksFileError):
        read_hooks(settings)
