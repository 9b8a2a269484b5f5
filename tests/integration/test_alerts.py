"""Alerts and webhooks on a real broker, whoever dies."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg

from modelyard.bus import Bus
from modelyard.client import Client
from modelyard.client.reading import read_stream
from modelyard.hooks_file import CommandHook, hooks_file, read_hooks, write_hooks
from modelyard.replay import replay
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks
from modelyard.up.child import Child
from schemas import buckets, streams, subjects
from schemas.alerts import Alert, AlertRule, AlertState, PutAlertRule, SilenceAlerts
from schemas.budgets import PutBudget
from schemas.devices import Device, DeviceKind
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from schemas.instances import InstanceState
from schemas.metrics import Sample
from schemas.roles import Role
from schemas.webhooks import HookEvent, HookKind, PutWebhook, Wanted, Webhook, WebhookState
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.service import main
from services.monitor.webhooks import delivery, hooks
from services.monitor.webhooks.http import ForbiddenAddress, Resolver
from tests.commands import refused, run
from tests.receiver import CUT, HANG, PATIENCE_S, Receiver, is_signed, receiver
from tests.standins import instance
from tests.support import Yard

ROOT = Path(__file__).parents[2]
METRIC = "yard_device_power_watts"
"""One that no shipped rule looks at."""
HOT = PutAlertRule(name="hot", metric=METRIC, threshold=90, sentence="{node} is at {value}.")


@asynccontextmanager
async def monitor(yard: Yard) -> AsyncIterator[Bus]:
    bus = await yard.bus(Role.MONITOR)
    async with Tasks() as tasks:
        await main(bus, yard.settings, tasks)
        yield bus
    await bus.close()


@pytest.fixture
async def client(yard: Yard) -> AsyncIterator[Client]:
    async with Client.connect(yard.settings, yard.url) as client:
        yield client


async def keeper(yard: Yard, *rules: AlertRule, samples: list[Sample]) -> Keeper:
    """One that looks when it is told to, and sees `samples`."""
    bus = await yard.bus(Role.MONITOR)
    known = await Rules.read(bus)
    for rule in rules:
        await known.put(PutAlertRule(**msgspec.structs.asdict(rule)))
    made = Keeper(bus, known, await Silences.read(bus), lambda: samples)
    await made.open()
    return made


async def told(bus: Bus) -> list[tuple[str, AlertState]]:
    """Every event about alerts, with the id of its alert."""
    events = replay(bus, subjects.ALERT_CHANGED, follow=False)
    return [(event.payload.alert, event.payload.state) async for event in events]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Where nothing announces it, it is asked for again."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.05)


def temperature(value: float) -> Sample:
    return Sample(name=METRIC, value=value, labels={"node": "n"})


RULE = AlertRule(name="hot", metric=METRIC, threshold=90)


async def test_a_restart_neither_loses_nor_doubles_a_firing_alert(yard: Yard) -> None:
    operator = await yard.bus()
    samples = [temperature(95)]
    first = await keeper(yard, RULE, samples=samples)
    await first.round()
    await first.round()
    ((name, _),) = await told(operator)
    second = await keeper(yard, samples=samples)
    await second.round()
    assert [alert.alert for alert in second.alerts()] == [name]
    samples[:] = [temperature(20)]
    third = await keeper(yard, samples=samples)
    await third.round()
    assert await told(operator) == [(name, AlertState.FIRING), (name, AlertState.RESOLVED)]


@pytest.mark.parametrize("stored", [True, False], ids=["after its event", "before its event"])
async def test_who_died_between_two_writes_has_told_it_once(yard: Yard, stored: bool) -> None:
    operator, bus = await yard.bus(), await yard.bus(Role.MONITOR)
    half = Alert(
        alert="a1",
        rule="hot",
        labels={"node": "n"},
        state=AlertState.FIRING,
        severity="warning",  # type: ignore[arg-type]  # a StrEnum on the wire
        sentence="Hot.",
        value=95,
        since=1,
        changed_at=time.time(),
        seen_at=time.time(),
        told=False,
    )
    await Store(bus, buckets.ALERT_STATES).put("k", half)
    if stored:
        # Longer ago than the broker remembers ids, as far as it is concerned.
        subject = subjects.ALERT_CHANGED(alert="a1", state="firing")
        await bus.js.publish(subject, subjects.ALERT_CHANGED.encode(half), headers={"ce-id": "a1.firing"})
    await keeper(yard, RULE, samples=[temperature(95)])
    assert await told(operator) == [("a1", AlertState.FIRING)]
    kept = await Store(operator, buckets.ALERT_STATES).get("k")
    assert kept is not None
    assert kept.told


async def test_what_happens_while_the_broker_is_away_is_told_in_order(yard: Yard) -> None:
    samples = [temperature(95)]
    watching = await keeper(yard, RULE, samples=samples)
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await watching.round()
    samples[:] = [temperature(20)]
    await watching.round()
    await yard.broker.start()

    async def both() -> bool:
        await watching.round()
        operator = await yard.bus()
        return [state for _, state in await told(operator)] == [AlertState.FIRING, AlertState.RESOLVED]

    await eventually(both)


async def test_rules_are_changed_switched_off_reset_and_guarded(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        alerting = client.alerting
        rules = {each.rule.name: each for each in (await alerting.alerts()).rules}
        shipped = rules["device-hot"]
        assert (shipped.default, shipped.revision) == (True, 0)
        off = PutAlertRule(**{**msgspec.structs.asdict(shipped.rule), "enabled": False, "revision": 0})
        stored = await alerting.put_rule(off)
        with pytest.raises(Conflict, match="somebody changed it"):
            await alerting.put_rule(off)
        now = {each.rule.name: each for each in (await alerting.alerts()).rules}["device-hot"]
        assert (now.rule.enabled, now.revision) == (False, stored.revision)
        with pytest.raises(BadRequest, match="switch it off"):
            await alerting.delete_rule("device-hot")
        await alerting.reset_rule("device-hot")
        assert {each.rule.name: each for each in (await alerting.alerts()).rules}["device-hot"] == shipped
        await alerting.put_rule(HOT)
        await alerting.delete_rule("hot")
        with pytest.raises(NotFound):
            await alerting.delete_rule("hot")
        with pytest.raises(BadRequest, match="of your own"):
            await alerting.put_rule(HOT)
            await alerting.reset_rule("hot")


async def test_rules_outlive_the_monitor_and_a_test_shows_what_they_find(yard: Yard, client: Client) -> None:
    cold = AlertRule(
        name="any", metric="yard_device_memory_used_ratio", threshold=0, labels={"device": "cpu"}
    )
    async with monitor(yard):
        await client.alerting.put_rule(PutAlertRule(**msgspec.structs.asdict(cold)))
    async with monitor(yard):

        async def found() -> bool:
            return bool((await client.alerting.test_rule("any")).series)

        await eventually(found)
        (series,) = (await client.alerting.test_rule(rule=cold)).series
        assert (series.holds, series.labels) == (True, {"node": "testnode", "device": "cpu"})


async def test_a_budget_is_seen_by_its_rules(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        budget = PutBudget(budget="house", limit=Decimal(5))
        await client.bus.call(subjects.BUDGET_PUT, budget)
        await eventually(lambda: has_series(client, "budget-used"))
        (series,) = (await client.alerting.test_rule("budget-used")).series
        assert (series.value, series.holds, series.labels["budget"]) == (0.0, False, "house")


async def test_a_silence_needs_an_end_a_reason_and_something_to_silence(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        good = {"for_s": 60.0, "reason": "Cleaning.", "rule": "device-hot"}
        wrong: list[dict[str, object]] = [{"for_s": 0}, {"for_s": 1e12}, {"reason": " "}, {"rule": None}]
        for each in wrong:
            with pytest.raises(BadRequest):
                await client.alerting.silence(msgspec.convert({**good, **each}, SilenceAlerts))
        with pytest.raises(NotFound):
            await client.alerting.silence(msgspec.convert({**good, "rule": "none"}, SilenceAlerts))
        silence = await client.alerting.silence(msgspec.convert(good, SilenceAlerts))
        bucket = buckets.SILENCES
        kept = await client.bus.js.get_last_msg(bucket.stream, bucket.subject(silence.silence))
        assert (kept.headers or {})["Nats-TTL"] == "61s"
    async with monitor(yard):
        assert (await client.alerting.alerts()).silences == (silence,)
        await client.alerting.unsilence(silence.silence)
        with pytest.raises(NotFound):
            await client.alerting.unsilence(silence.silence)
        assert (await client.alerting.alerts()).silences == ()


def card(temperature_c: float) -> Device:
    return Device(
        node="n",
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="card",
        memory_total_bytes=2,
        memory_used_bytes=1,
        memory_free_bytes=1,
        sampled_at=time.time(),
        temperature_c=temperature_c,
    )


async def test_a_device_that_gets_hot_is_told_by_webhook_and_so_is_its_end(
    yard: Yard, client: Client
) -> None:
    async with receiver() as hook, monitor(yard) as bus:
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        assert stored.secret is not None
        hot = {**msgspec.structs.asdict(await shipped(client, "device-hot")), "for_s": 0.0}
        devices = Store(bus, buckets.DEVICES)
        await devices.put("n.GPU-1", card(97.0), ttl_s=60)
        await client.alerting.put_rule(PutAlertRule(**hot))
        await hook.until(lambda hook: len(hook.taken) == 1)
        await devices.put("n.GPU-1", card(60.0), ttl_s=60)
        await hook.until(lambda hook: len(hook.taken) == 2)
    firing, resolved = hook.taken
    assert (firing.type, resolved.type) == ("alert.firing", "alert.resolved")
    assert firing.event["data"]["alert"] == resolved.event["data"]["alert"]
    assert firing.event["data"]["labels"] == {"node": "n", "device": "GPU-1"}
    assert "97 °C" in firing.event["text"]
    assert is_signed(firing, stored.secret)
    assert not is_signed(firing, stored.secret.replace("whsec_", "whsec_AAAA"))


async def has_series(client: Client, rule: str) -> bool:
    return bool((await client.alerting.test_rule(rule)).series)


async def shipped(client: Client, name: str) -> AlertRule:
    return next(each.rule for each in (await client.alerting.alerts()).rules if each.rule.name == name)


async def ready(bus: Bus, *models: str) -> None:
    """A model each gets ready."""
    for model in models:
        record = instance(f"i-{model}", model, InstanceState.READY)
        await bus.emit(subjects.INSTANCE_CHANGED, record, instance=record.instance, state=record.state)


def models_of(hook: Receiver) -> list[str]:
    return [got.event["data"]["model"] for got in hook.taken]


async def test_a_hook_hears_what_it_wants_from_when_it_is_there(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        await ready(runner, "before")
        wanted = Wanted(events=(HookEvent.READY,), models=("a", "c"))
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url, wanted=wanted))
        await ready(runner, "a", "b", "c")
        await hook.until(lambda hook: sorted(models_of(hook)) == ["a", "c"])
        more = Wanted(events=(HookEvent.READY,), models=("d",))
        again = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url, wanted=more))
        assert again.secret is None, "that of before goes on"
        await ready(runner, "a", "d")
        await hook.until(lambda hook: sorted(models_of(hook)) == ["a", "c", "d"])


@pytest.mark.parametrize("answer", [500, 404, 302, CUT])
async def test_what_is_not_taken_comes_again_with_the_same_id(
    yard: Yard, client: Client, answer: int
) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        hook.answers = [answer]
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "a")
        await hook.until(lambda hook: len(hook.taken) == 1)
        assert len(hook.got) == 2
        assert len({got.id for got in hook.got}) == 1
        assert all(got.headers["webhook-id"] == got.event["id"] for got in hook.got)
        assert all("elsewhere" not in got.headers["host"] for got in hook.got)


async def test_a_receiver_that_hangs_holds_up_no_other(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as slow, receiver() as quick, monitor(yard):
        slow.answers = [HANG] * 100
        await client.alerting.put_webhook(PutWebhook(name="slow", url=slow.url))
        await client.alerting.put_webhook(PutWebhook(name="quick", url=quick.url))
        names = [f"m{number}" for number in range(20)]
        await ready(runner, *names)
        await quick.until(lambda hook: sorted(models_of(hook)) == sorted(names))
        await slow.until(lambda hook: len(hook.got) == delivery.AT_ONCE)
        assert len(slow.got) == delivery.AT_ONCE, "and it is not flooded itself"
        await client.alerting.delete_webhook("slow")


async def test_a_receiver_that_is_away_for_a_while_misses_nothing(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as first:
        url = first.url
    port = int(url.split(":")[2].split("/")[0])
    async with monitor(yard):
        await client.alerting.put_webhook(PutWebhook(name="me", url=url))
        await ready(runner, "a", "b")

        async def failing() -> bool:
            (record,) = await client.alerting.webhooks()
            return record.state.failing_since is not None

        await eventually(failing)
        (record,) = await client.alerting.webhooks()
        assert record.state.error is not None
        assert "cannot be reached" in record.state.error
        async with receiver(port) as back:
            await back.until(lambda hook: {"a", "b"} <= set(models_of(hook)))


async def test_a_hook_goes_on_after_the_broker_was_killed(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "before")
        await hook.until(lambda hook: models_of(hook) == ["before"])
        assert yard.broker.pid is not None
        os.kill(yard.broker.pid, signal.SIGKILL)
        await yard.broker.wait()
        await yard.broker.start()
        await ready(runner, "after")
        await hook.until(lambda hook: "after" in models_of(hook))


async def test_what_is_given_up_is_shown(yard: Yard, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS", 2)
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        hook.answers = [410, 410]
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "a")

        async def dead() -> bool:
            (record,) = await client.alerting.webhooks()
            return bool(record.state.dead)

        await eventually(dead)
        (record,) = await client.alerting.webhooks()
        (undelivered,) = record.state.dead
        assert (undelivered.id, undelivered.attempts) == (hook.got[0].id, 2)
        assert undelivered.error == "It answered 410."
        states = Store(client.bus, buckets.WEBHOOK_STATES)
        kept = await states.get("me")
        assert isinstance(kept, WebhookState)
        assert kept.dead == (undelivered,)


async def test_no_secret_is_anywhere_but_in_its_file(yard: Yard, client: Client) -> None:
    async with receiver() as hook, monitor(yard):
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        assert stored.secret is not None
        assert (await client.alerting.test_webhook("me")).delivered
        public = msgspec.json.encode(await client.alerting.webhooks()).decode()
        kept = [
            msg.data.decode()
            for stream in (streams.EVENTS.name, buckets.WEBHOOKS.stream, buckets.WEBHOOK_STATES.stream)
            for msg in await everything(client.bus, stream)
        ]
        for text in (public, *kept):
            assert "s3cret-path" not in text
            assert stored.secret not in text
    folder = yard.settings.credentials / "webhooks"
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    async with monitor(yard):
        await client.alerting.delete_webhook("me")
        assert not file.exists()
        assert await client.alerting.webhooks() == ()
        with pytest.raises(NotFound):
            await client.alerting.test_webhook("me")


async def everything(bus: Bus, stream: str) -> list[Msg]:
    return list(await read_stream(bus, stream, ">"))


async def test_a_program_of_the_machines_own_file_is_told(
    yard: Yard, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LOOK_S", 0.05)
    runner = await yard.bus(Role.RUNNER)
    seen = tmp_path / "seen"
    script = (
        "import os, sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '|' + ','.join(sorted(os.environ)))"
    )
    argv = (sys.executable, "-c", script, str(seen))
    bell = CommandHook(name="bell", argv=argv)
    write_hooks(yard.settings, [bell])
    async with monitor(yard):
        (record,) = await client.alerting.webhooks()
        assert (record.webhook.name, record.webhook.target) == ("bell", Path(sys.executable).name)
        await ready(runner, "a")

        async def ran() -> bool:
            return seen.exists() and "|" in seen.read_text()

        await eventually(ran)
        body, _, names = seen.read_text().partition("|")
        assert json.loads(body)["data"]["model"] == "a"
        assert not [name for name in names.split(",") if name.startswith("YARD_")]
        with pytest.raises(BadRequest, match=r"hooks\.toml"):
            await client.alerting.delete_webhook("bell")
        with pytest.raises(BadRequest, match=r"hooks\.toml"):
            await client.alerting.put_webhook(PutWebhook(name="bell", url="http://127.0.0.1:9/"))
        write_hooks(yard.settings, [bell, CommandHook(name="more", argv=("/bin/true",))])

        async def both() -> bool:
            return len(await client.alerting.webhooks()) == 2

        await eventually(both)
    # A file that is taken away while nobody looks counts, too.
    hooks_file(yard.settings).unlink()
    async with monitor(yard):
        assert await client.alerting.webhooks() == ()


async def test_a_program_that_fails_or_cannot_be_run_is_said_to(yard: Yard, client: Client) -> None:
    programs = [
        CommandHook(name="fails", argv=("/bin/false",)),
        CommandHook(name="missing", argv=("/nowhere/program",)),
    ]
    write_hooks(yard.settings, programs)
    async with monitor(yard):
        assert (await client.alerting.test_webhook("fails")).error == "It ended with 1."
        assert "cannot be run" in ((await client.alerting.test_webhook("missing")).error or "")


def monitor_process(yard: Yard) -> Child:
    env = {**os.environ, **yard.settings.as_environment(), "YARD_NATS_URL": yard.url, "PYTHONPATH": str(ROOT)}
    return Child(
        "monitor", [sys.executable, "-m", "services.monitor"], env, yard.settings.logs / "monitor.log"
    )


async def test_a_monitor_killed_between_event_and_delivery_tells_it_all_the_same(
    yard: Yard, client: Client
) -> None:
    runner = await yard.bus(Role.RUNNER)
    process = monitor_process(yard)
    await process.start()
    async with receiver() as hook:

        async def there() -> bool:
            try:
                return await client.alerting.webhooks() is not None
            except YardError:
                return False

        await eventually(there)
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        hook.answers = [HANG, HANG]
        await ready(runner, "a", "b")
        await hook.until(lambda hook: len(hook.got) == 2)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await ready(runner, "c")
        await process.start()
        await hook.until(lambda hook: set(models_of(hook)) == {"a", "b", "c"})
        assert stored.secret is not None
        assert all(is_signed(got, stored.secret) for got in hook.got)
        assert {got.id for got in hook.got} == {got.id for got in hook.taken}
        await process.stop(5.0)


async def test_a_machine_that_joined_leaves_alerts_to_the_first(yard: Yard) -> None:
    joined = msgspec.structs.replace(yard.settings, joined=True)
    bus, operator = await yard.bus(Role.MONITOR), await yard.bus()
    async with Tasks() as tasks:
        await main(bus, joined, tasks)
        devices = await Mirror.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        consumers = await operator.js.stream_info(buckets.ALERT_STATES.stream)
        assert consumers.state.messages == 0
        msg = await operator.nc.request("$SRV.INFO.monitor", timeout=5)
        assert b"alert-list" not in msg.data


async def test_a_hook_that_takes_the_name_of_one_before_hears_only_of_what_comes(
    yard: Yard, client: Client
) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard) as bus:
        stale = msgspec.structs.replace(_hook("me"), created_at=1.0)
        await bus.js.add_consumer(streams.EVENTS.name, delivery._consumer(stale))
        await ready(runner, "before")
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "after")
        await hook.until(lambda hook: bool(hook.taken))
        assert models_of(hook) == ["after"]


def _hook(name: str) -> Webhook:
    return Webhook(name=name, kind=HookKind.HTTP, target="http://h", wanted=Wanted(), created_at=2.0)


async def test_a_name_that_leads_to_a_link_local_address_leads_nowhere() -> None:
    # What the system makes of this number is 169.254.169.254.
    with pytest.raises(ForbiddenAddress):
        await Resolver().resolve("2852039166", 80)
    assert [each["host"] for each in await Resolver().resolve("localhost", 80)] == ["127.0.0.1"]


async def test_what_was_lost_from_the_disk_is_said_and_can_be_put_again(yard: Yard, client: Client) -> None:
    async with receiver() as hook:
        async with monitor(yard):
            await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        (yard.settings.credentials / "webhooks" / "me.json").unlink()
        async with monitor(yard):
            assert "put it again" in ((await client.alerting.test_webhook("me")).error or "")
            stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
            assert stored.secret is not None
            assert (await client.alerting.test_webhook("me")).delivered


async def test_the_commands_of_a_person(yard: Yard, client: Client) -> None:
    async with receiver() as hook, monitor(yard):
        made = await run(
            yard,
            "alert",
            "set",
            "mine",
            "metric=yard_device_power_watts",
            "threshold=4",
            "comparison=<",
        )
        assert made.out.startswith("mine is made")
        assert await refused(yard, "alert", "set", "mine", "nonsense=1") == "bad_request"
        assert await refused(yard, "alert", "set", "mine", "metric=yard_temperature") == "bad_request"
        assert f"{METRIC} < 4" in (await run(yard, "alerts", "--rules")).out
        assert (await run(yard, "alert", "test", "mine")).out == "No such metric is there now.\n"
        await run(yard, "alert", "silence", "mine", "--for", "2h", "--reason", "Moving.")
        assert "Moving." in (await run(yard, "alerts")).out
        added = await run(yard, "webhook", "add", "me", "-", "--event", "model.ready", stdin=f"{hook.url}\n")
        assert "shown this once: whsec_" in added.out
        assert (await run(yard, "webhook", "test", "me")).out == "me took it.\n"
        listed = (await run(yard, "webhook", "list")).out
        assert "model.ready" in listed
        assert "s3cret" not in listed
        assert (await run(yard, "webhook", "rm", "me")).out == "me is told nothing more.\n"


async def test_a_program_is_named_on_its_machine_without_a_yard(yard: Yard) -> None:
    program = await run(
        yard, "webhook", "exec", "bell", "--severity", "critical", "--", "/bin/true", "--loud"
    )
    assert program.code == 0, program.err
    (written,) = read_hooks(yard.settings)
    assert (written.argv, written.wanted.severity) == (("/bin/true", "--loud"), "critical")
    wrong = await run(yard, "webhook", "exec", "bell", "--", "relative")
    assert (wrong.code, "absolute path" in wrong.err) == (1, True)
    assert (await run(yard, "webhook", "rm", "bell")).code == 0
    assert read_hooks(yard.settings) == ()
