"""Alerts on a real broker: rules, silences, events, across restarts."""

import os
import signal
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.client import Client
from schemas import buckets, subjects
from schemas.alerts import Alert, AlertRule, AlertState, ListAlerts, PutAlertRule, SilenceAlerts
from schemas.base import Role
from schemas.budgets import PutBudget
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.metrics import Sample
from schemas.webhooks import PutWebhook
from services.monitor.alerts.alerts import Alerts
from services.monitor.service import main
from tests.commands import refusal_code, run_command
from tests.integration.monitor_service import TIMEOUT_S, monitor
from tests.receiver import is_signed, receiver
from tests.standins import card
from tests.support import Yard, eventually

METRIC = "yard_device_power_watts"
"""A metric without a shipped rule."""
HOT = PutAlertRule(name="hot", metric=METRIC, threshold=90, sentence="{node} is at {value}.")


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks() as tasks:
        yield tasks


async def open_alerts(yard: Yard, tasks: Tasks, *rules: AlertRule, samples: list[Sample]) -> Alerts:
    """Alerts over `samples`, evaluated by the test."""
    alerts = await Alerts.open(await yard.bus(Role.MONITOR), tasks, lambda: samples)
    for rule in rules:
        await alerts.rules.put(PutAlertRule(**msgspec.structs.asdict(rule)))
    return alerts


async def alert_events(bus: Bus) -> list[tuple[str, AlertState]]:
    """The id and the state of every alert event."""
    events = replay(bus, subjects.ALERT_CHANGED, follow=False)
    return [(event.payload.alert, event.payload.state) async for event in events]


def temperature(value: float) -> Sample:
    return Sample(name=METRIC, value=value, labels={"node": "n"})


RULE = AlertRule(name="hot", metric=METRIC, threshold=90)


async def test_a_restart_neither_loses_nor_duplicates_an_alert(yard: Yard, tasks: Tasks) -> None:
    operator = await yard.bus()
    samples = [temperature(95)]
    first = await open_alerts(yard, tasks, RULE, samples=samples)
    await first.evaluate()
    await first.evaluate()
    ((name, _),) = await alert_events(operator)
    second = await open_alerts(yard, tasks, samples=samples)
    await second.evaluate()
    assert [alert.alert for alert in (await second.list(ListAlerts())).alerts] == [name]
    samples[:] = [temperature(20)]
    third = await open_alerts(yard, tasks, samples=samples)
    await third.evaluate()
    assert await alert_events(operator) == [(name, AlertState.FIRING), (name, AlertState.RESOLVED)]


@pytest.mark.parametrize("stored", [True, False], ids=["after its event", "before its event"])
async def test_a_death_between_two_writes_publishes_one_event(yard: Yard, tasks: Tasks, stored: bool) -> None:
    operator, bus = await yard.bus(), await yard.bus(Role.MONITOR)
    unpublished = Alert(
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
    await BucketStore(bus, buckets.ALERT_STATES).put("k", unpublished)
    if stored:
        # Without a message id, as if the broker had forgotten it.
        subject = subjects.ALERT_CHANGED(alert="a1", state="firing")
        await bus.js.publish(
            subject, subjects.ALERT_CHANGED.encode(unpublished), headers={"ce-id": "a1.firing"}
        )
    await open_alerts(yard, tasks, RULE, samples=[temperature(95)])
    assert await alert_events(operator) == [("a1", AlertState.FIRING)]
    stored_alert = await BucketStore(operator, buckets.ALERT_STATES).get("k")
    assert stored_alert is not None
    assert stored_alert.published


async def test_events_of_an_outage_are_published_in_order(yard: Yard, tasks: Tasks) -> None:
    samples = [temperature(95)]
    alerts = await open_alerts(yard, tasks, RULE, samples=samples)
    assert yard.broker.pid is not None
    os.kill(yard.broker.pid, signal.SIGKILL)
    await yard.broker.wait()
    await alerts.evaluate()
    samples[:] = [temperature(20)]
    await alerts.evaluate()
    await yard.broker.start()

    async def both() -> bool:
        await alerts.evaluate()
        operator = await yard.bus()
        return [state for _, state in await alert_events(operator)] == [
            AlertState.FIRING,
            AlertState.RESOLVED,
        ]

    await eventually(both, "both events are published", timeout_s=TIMEOUT_S)


async def test_rules_are_changed_disabled_reset_and_guarded_by_revision(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        alerting = client.alerting
        rules = {record.rule.name: record for record in (await alerting.alerts()).rules}
        shipped = rules["device-hot"]
        assert (shipped.default, shipped.revision) == (True, 0)
        off = PutAlertRule(**{**msgspec.structs.asdict(shipped.rule), "enabled": False, "revision": 0})
        stored = await alerting.put_rule(off)
        with pytest.raises(Conflict, match="changed in the meantime"):
            await alerting.put_rule(off)
        now = {record.rule.name: record for record in (await alerting.alerts()).rules}["device-hot"]
        assert (now.rule.enabled, now.revision) == (False, stored.revision)
        with pytest.raises(BadRequest, match="switch it off"):
            await alerting.delete_rule("device-hot")
        await alerting.reset_rule("device-hot")
        assert {record.rule.name: record for record in (await alerting.alerts()).rules}[
            "device-hot"
        ] == shipped
        await alerting.put_rule(HOT)
        await alerting.delete_rule("hot")
        with pytest.raises(NotFound):
            await alerting.delete_rule("hot")
        with pytest.raises(BadRequest, match="of your own"):
            await alerting.put_rule(HOT)
            await alerting.reset_rule("hot")


async def test_rules_are_stored_and_can_be_tested(yard: Yard, client: Client) -> None:
    cold = AlertRule(
        name="any", metric="yard_device_memory_used_ratio", threshold=0, labels={"device": "cpu"}
    )
    async with monitor(yard):
        await client.alerting.put_rule(PutAlertRule(**msgspec.structs.asdict(cold)))
    async with monitor(yard):

        async def has_sample() -> bool:
            return bool((await client.alerting.test_rule("any")).series)

        await eventually(has_sample, "the metric has a sample", timeout_s=TIMEOUT_S)
        (series,) = (await client.alerting.test_rule(rule=cold)).series
        assert (series.holds, series.labels) == (True, {"node": "testnode", "device": "cpu"})


async def test_budgets_have_alert_rules(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        budget = PutBudget(budget="house", limit=Decimal(5))
        await client.bus.call(subjects.BUDGET_PUT, budget)
        await eventually(
            lambda: has_series(client, "budget-used"), "the budget is sampled", timeout_s=TIMEOUT_S
        )
        (series,) = (await client.alerting.test_rule("budget-used")).series
        assert (series.value, series.holds, series.labels["budget"]) == (0.0, False, "house")


async def test_silences_are_validated_stored_and_ended(yard: Yard, client: Client) -> None:
    async with monitor(yard):
        good = {"for_s": 60.0, "reason": "Cleaning.", "rule": "device-hot"}
        invalid: list[dict[str, object]] = [{"for_s": 0}, {"for_s": 1e12}, {"reason": " "}, {"rule": None}]
        for fields in invalid:
            with pytest.raises(BadRequest):
                await client.alerting.silence(msgspec.convert({**good, **fields}, SilenceAlerts))
        with pytest.raises(NotFound):
            await client.alerting.silence(msgspec.convert({**good, "rule": "none"}, SilenceAlerts))
        silence = await client.alerting.silence(msgspec.convert(good, SilenceAlerts))
        bucket = buckets.SILENCES
        stored = await client.bus.js.get_last_msg(bucket.stream, bucket.subject(silence.silence))
        assert (stored.headers or {})["Nats-TTL"] == "61s"
    async with monitor(yard):
        assert (await client.alerting.alerts()).silences == (silence,)
        await client.alerting.unsilence(silence.silence)
        with pytest.raises(NotFound):
            await client.alerting.unsilence(silence.silence)
        assert (await client.alerting.alerts()).silences == ()


async def has_series(client: Client, rule: str) -> bool:
    return bool((await client.alerting.test_rule(rule)).series)


async def shipped(client: Client, name: str) -> AlertRule:
    return next(record.rule for record in (await client.alerting.alerts()).rules if record.rule.name == name)


async def test_a_joined_node_has_no_alerts(yard: Yard) -> None:
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


async def test_an_alert_is_sent_to_webhooks_when_it_fires_and_resolves(yard: Yard, client: Client) -> None:
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


async def test_alert_and_webhook_commands_of_the_cli(yard: Yard, client: Client) -> None:
    async with receiver() as hook, monitor(yard):
        made = await run_command(
            yard,
            "alert",
            "set",
            "mine",
            "metric=yard_device_power_watts",
            "threshold=4",
            "comparison=<",
        )
        assert made.out.startswith("mine is made")
        assert await refusal_code(yard, "alert", "set", "mine", "nonsense=1") == "bad_request"
        assert await refusal_code(yard, "alert", "set", "mine", "metric=yard_temperature") == "bad_request"
        assert f"{METRIC} < 4" in (await run_command(yard, "alerts", "--rules")).out
        assert (await run_command(yard, "alert", "test", "mine")).out == "No such metric is there now.\n"
        await run_command(yard, "alert", "silence", "mine", "--for", "2h", "--reason", "Moving.")
        assert "Moving." in (await run_command(yard, "alerts")).out
        added = await run_command(
            yard, "webhook", "add", "me", "-", "--event", "model.ready", stdin=f"{hook.url}\n"
        )
        assert "shown this once: whsec_" in added.out
        assert (await run_command(yard, "webhook", "test", "me")).out == "me took it.\n"
        listed = (await run_command(yard, "webhook", "list")).out
        assert "model.ready" in listed
        assert "s3cret" not in listed
        assert (await run_command(yard, "webhook", "rm", "me")).out == "No more events are sent to me.\n"
