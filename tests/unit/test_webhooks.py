"""What hooks are told, how it is signed, and when it is tried again."""

import base64
import hashlib
import hmac
from pathlib import Path

import msgspec
import pytest

from modelyard.host.hooks_file import BadFile, CommandHook, hooks_file, read_hooks, write_hooks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.alerts import Alert, AlertState, Severity
from schemas.downloads import Download, DownloadState
from schemas.errors import BadRequest
from schemas.instances import Instance, InstanceState, Reason
from schemas.webhooks import HookEvent, WebhookFilter
from services.monitor.webhooks.backoff import MAX_ATTEMPTS, PAUSES_S, pause_s, timeout_s
from services.monitor.webhooks.http import check_url, shown
from services.monitor.webhooks.occurrence import Occurrence, filters, is_wanted, occurrence_of
from services.monitor.webhooks.signing import check_secret, new_secret, signed
from tests.standins import instance

HEADERS = {"ce-id": "e1", "ce-time": "2026-01-01T00:00:00Z", "ce-source": "/modelyard/n/runner"}


def of_instance(state: InstanceState, reason: Reason = Reason.REQUESTED) -> Occurrence | None:
    record: Instance = msgspec.structs.replace(instance("i1", "demo", state), reason=reason, error="No.\nx")
    subject = subjects.INSTANCE_CHANGED(instance="i1", state=state)
    return occurrence_of(subject, HEADERS, msgspec.json.encode(record))


@pytest.mark.parametrize(
    ("state", "reason", "event"),
    [
        (InstanceState.READY, Reason.REQUESTED, HookEvent.READY),
        (InstanceState.STOPPED, Reason.EVICTED, HookEvent.EVICTED),
        (InstanceState.STOPPED, Reason.IDLE, HookEvent.STOPPED),
        (InstanceState.FAILED, Reason.OOM, HookEvent.CRASHED),
        (InstanceState.LOADING, Reason.REQUESTED, None),
    ],
)
def test_the_life_of_an_instance_is_told(
    state: InstanceState, reason: Reason, event: HookEvent | None
) -> None:
    told = of_instance(state, reason)
    assert (told.event if told else None) == event
    if told:
        assert (told.id, told.model, told.data["reason"]) == ("e1", "demo", reason)
        assert "\n" not in told.text


@pytest.mark.parametrize(
    ("state", "event"),
    [(DownloadState.FINISHED, HookEvent.DOWNLOADED), (DownloadState.FAILED, HookEvent.DOWNLOAD_FAILED)],
)
def test_downloads_are_told(state: DownloadState, event: HookEvent) -> None:
    record = Download(
        download="d1", reference="org/m", model="org/m", state=state, created_at=1, changed_at=1
    )
    subject = subjects.DOWNLOAD_CHANGED(download="d1", state=state)
    told = occurrence_of(subject, HEADERS, msgspec.json.encode(record))
    assert told is not None
    assert told.event is event


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


def of_alert(record: Alert) -> Occurrence | None:
    subject = subjects.ALERT_CHANGED(alert="a1", state=record.state)
    return occurrence_of(subject, HEADERS, msgspec.json.encode(record))


def test_alerts_are_told_unless_they_pend_or_are_silenced() -> None:
    firing = of_alert(alert(AlertState.FIRING))
    assert firing is not None
    assert (firing.event, firing.severity, firing.text) == (
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
def test_a_hook_hears_what_it_wants(wanted: dict[str, object], expected: bool) -> None:
    told = of_alert(alert(AlertState.FIRING))
    assert told is not None
    assert is_wanted(told, msgspec.convert(wanted, WebhookFilter)) is expected


def test_a_hook_of_some_models_hears_of_no_other() -> None:
    told = of_instance(InstanceState.READY)
    assert told is not None
    assert is_wanted(told, WebhookFilter(models=("demo", "b")))
    assert not is_wanted(told, WebhookFilter(models=("b",)))
    of_model = of_alert(alert(AlertState.FIRING, labels={"model": "demo"}))
    assert of_model is not None
    assert not is_wanted(of_model, WebhookFilter(models=("b",)))


def test_a_consumer_hears_no_more_than_its_hook() -> None:
    ready_and_evicted = WebhookFilter(events=(HookEvent.READY, HookEvent.EVICTED))
    assert filters(ready_and_evicted) == ["yard.event.instance.*.ready", "yard.event.instance.*.stopped"]
    assert len(filters(WebhookFilter())) == 7


def test_the_body_is_a_cloud_event() -> None:
    told = of_instance(InstanceState.READY)
    assert told is not None
    body = msgspec.json.decode(told.body())
    assert (body["specversion"], body["id"], body["type"]) == ("1.0", "e1", "modelyard.model.ready")
    assert body["data"]["model"] == "demo"
    assert body["text"] == "demo on testnode is ready."


def test_a_signature_is_what_standard_webhooks_say() -> None:
    """The example of their specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = signed(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    other = hmac.new(raw, b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265331." + body, hashlib.sha256).digest()
    assert base64.b64encode(other).decode() not in headers["webhook-signature"]


def test_a_secret_is_fresh_and_a_bad_one_is_not_repeated() -> None:
    assert check_secret(new_secret()) != new_secret()
    for bad in ("", "whsec_", "whsec_c2hvcnQ=", "secret", "whsec_!!!", "whsec_" + "A" * 400):
        with pytest.raises(BadRequest) as refused:
            check_secret(bad)
        assert len(bad) < 8 or bad not in str(refused.value)


@pytest.mark.parametrize(
    "bad",
    [
        *("", "ftp://h/", "http://", "nothing", "file:///etc/passwd", "http://169.254.169.254/latest"),
        *("http://[fe80::1]/", "http://[::ffff:169.254.1.1]/", "http://h:99999/", "http://h/" + "x" * 2000),
        *("http://" + "a" * 70 + ".example/", "http://a..b/"),
    ],
)
def test_a_url_that_may_not_be_told_is_refused(bad: str) -> None:
    with pytest.raises(BadRequest):
        check_url(bad)


def test_of_a_url_only_its_host_is_shown() -> None:
    assert (
        shown(check_url("https://user:pw@hooks.example:8443/T0/s3cret?x=y")) == "https://hooks.example:8443"
    )
    for home in ("http://127.0.0.1:9/x", "http://192.168.1.2/x", "http://localhost/x"):
        assert check_url(home)


def test_pauses_grow_spread_and_end() -> None:
    assert [pause_s(attempt, chance=0.5) for attempt in range(1, MAX_ATTEMPTS)] == list(PAUSES_S)
    assert pause_s(1, chance=0) == pytest.approx(0.8)
    assert pause_s(1, chance=1) == pytest.approx(1.2)
    assert pause_s(99, chance=0.5) == PAUSES_S[-1]
    assert pause_s(1, 30.0) == 30.0
    assert pause_s(1, 1e9) == 3600.0
    assert 12 * 3600 < timeout_s() < 24 * 3600


def test_programs_are_read_from_a_file_that_is_ours_alone(settings: Settings) -> None:
    assert read_hooks(settings) == ()
    hook = CommandHook(
        name="bell", argv=("/bin/true", "a b"), wanted=WebhookFilter(events=(HookEvent.READY,))
    )
    write_hooks(settings, [hook])
    assert read_hooks(settings) == (hook,)
    assert hooks_file(settings).stat().st_mode & 0o777 == 0o600
    hooks_file(settings).chmod(0o666)
    with pytest.raises(BadFile, match="written by others"):
        read_hooks(settings)


@pytest.mark.parametrize(
    "text",
    ["nonsense", '[[hook]]\nname="a"\nargv=["sh"]', '[[hook]]\nname="a b"\nargv=["/bin/sh"]', "\udcff"],
)
def test_a_file_that_is_wrong_is_refused_whole(settings: Settings, text: str) -> None:
    path: Path = hooks_file(settings)
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(BadFile):
        read_hooks(settings)
