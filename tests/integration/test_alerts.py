"""Alerts on a real broker, whoever dies."""

import os
import signal
import time
from decimal import Decimal

import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.client import Client
from schemas import buckets, subjects
from schemas.alerts import Alert, AlertRule, AlertState, PutAlertRule, SilenceAlerts
from schemas.base import Role
from schemas.budgets import PutBudget
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.metrics import Sample
from schemas.webhooks import PutWebhook
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences
from services.monitor.service import main
from tests.commands import refused, run
from tests.integration.monitor_service import eventually, monitor
from tests.receiver import is_signed, receiver
from tests.standins import card
from tests.support import Yard

METRIC = "yard_device_power_watts"
"""One that no shipped rule looks at."""
HOT = PutAlertRule(name="hot", metric=METRIC, threshold=90, sentence="{node} is at {value}.")


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
        published=False,
    )
    await BucketStore(bus, buckets.ALERT_STATES).put("k", half)
    if stored:
        # Longer ago than the broker remembers ids, as far as it is concerned.
        subject = subjects.ALERT_CHANGED(alert="a1", state="firing")
        await bus.js.publish(subject, subjects.ALERT_CHANGED.encode(half), headers={"ce-id": "a1.firing"})
    await keeper(yard, RULE, samples=[temperature(95)])
    assert await told(operator) == [("a1", AlertState.FIRING)]
    kept = await BucketStore(operator, buckets.ALERT_STATES).get("k")
    assert kept is not None
    assert kept.published


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


async def has_series(client: Client, rule: str) -> bool:
    return bool((await client.alerting.test_rule(rule)).series)


async def shipped(client: Client, name: str) -> AlertRule:
    return next(each.rule for each in (await client.alerting.alerts()).rules if each.rule.name == name)


async def test_a_machine_that_joined_leaves_alerts_to_the_first(yard: Yard) -> None:
    joined = msgspec.structs.replace(yard.settings, joined=True)
    bus, operator = await yard.bus(Role.MONITOR), await yard.bus()
    async with Tasks() as tasks:
        await main(bus, joined, tasks)
        devices = await BucketCache.start(operator, buckets.DEVICES, tasks)
        await devices.until(lambda values: "testnode.cpu" in values)
        consumers = await operator.js.stream_info(buckets.ALERT_STATES.stream)
        assert consumers.state.messages == 0
        msg = await operator.nc.request("$SRV.INFO.monitor", timeout=5)
        assert b"alert-list" not in msg.data


async def test_a_device_that_gets_hot_is_told_by_webhook_and_so_is_its_end(
    yard: Yard, client: Client
) -> None:
    async with receiver() as hook, monitor(yard) as bus:
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        assert stored.secret is not None
        hot = {**msgspec.structs.asdict(await shipped(client, "device-hot")), "for_s": 0.0}
        devices = BucketStore(bus, buckets.DEVICES)
        await devices.put("n.GPU-1", card("n", 97.0), ttl_s=60)
        await client.alerting.put_rule(PutAlertRule(**hot))
        await hook.until(lambda hook: len(hook.taken) == 1)
        await devices.put("n.GPU-1", card("n", 60.0), ttl_s=60)
        await hook.until(lambda hook: len(hook.taken) == 2)
    firing, resolved = hook.taken
    assert (firing.type, resolved.type) == ("alert.firing", "alert.resolved")
    assert firing.event["data"]["alert"] == resolved.event["data"]["alert"]
    assert firing.event["data"]["labels"] == {"node": "n", "device": "GPU-1"}
    assert "97 °C" in firing.event["text"]
    assert is_signed(firing, stored.secret)
    assert not is_signed(firing, stored.secret.replace("whsec_", "whsec_AAAA"))


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
