"""Webhooks on a real broker: delivery to URLs and programs across restarts."""

import json
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_stream
from modelyard.bus.records import BucketStore
from modelyard.client import Client
from modelyard.host.hooks_file import CommandHook, hooks_path, read_hooks, write_hooks
from schemas import buckets, streams, subjects
from schemas.base import Role
from schemas.errors import BadRequest, NotFound, YardError
from schemas.instances import InstanceState
from schemas.webhooks import HookEvent, HookKind, PutWebhook, Webhook, WebhookFilter, WebhookState
from services.monitor.webhooks import delivery, webhooks
from services.monitor.webhooks.senders import ForbiddenAddress, GuardedResolver
from tests.commands import refusal_code, run_command
from tests.integration.monitor_service import TIMEOUT_S, monitor, monitor_process
from tests.receiver import CUT, HANG, Receiver, is_signed, receiver
from tests.standins import instance
from tests.support import Yard, eventually


async def ready(bus: Bus, *models: str) -> None:
    """Emit the event of a ready instance of each model."""
    for model in models:
        record = instance(f"i-{model}", model, InstanceState.READY)
        await bus.emit(subjects.INSTANCE_CHANGED, record, instance=record.instance, state=record.state)


def models_of(hook: Receiver) -> list[str]:
    return [delivered.event["data"]["model"] for delivered in hook.taken]


async def test_a_webhook_gets_matching_events_since_its_creation(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        await ready(runner, "before")
        wanted = WebhookFilter(events=(HookEvent.READY,), models=("a", "c"))
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url, wanted=wanted))
        await ready(runner, "a", "b", "c")
        await hook.until(lambda hook: sorted(models_of(hook)) == ["a", "c"])
        changed = WebhookFilter(events=(HookEvent.READY,), models=("d",))
        again = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url, wanted=changed))
        assert again.secret is None, "the secret stays"
        await ready(runner, "a", "d")
        await hook.until(lambda hook: sorted(models_of(hook)) == ["a", "c", "d"])


@pytest.mark.parametrize("answer", [500, 404, 302, CUT])
async def test_a_refused_event_is_retried_with_the_same_id(yard: Yard, client: Client, answer: int) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        hook.statuses = [answer]
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "a")
        await hook.until(lambda hook: len(hook.taken) == 1)
        assert len(hook.deliveries) == 2
        assert len({delivered.id for delivered in hook.deliveries}) == 1
        assert all(delivered.headers["webhook-id"] == delivered.event["id"] for delivered in hook.deliveries)
        assert all("elsewhere" not in delivered.headers["host"] for delivered in hook.deliveries)


async def test_a_hung_receiver_delays_no_other(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as slow, receiver() as quick, monitor(yard):
        slow.statuses = [HANG] * 100
        await client.alerting.put_webhook(PutWebhook(name="slow", url=slow.url))
        await client.alerting.put_webhook(PutWebhook(name="quick", url=quick.url))
        names = [f"m{number}" for number in range(20)]
        await ready(runner, *names)
        await quick.until(lambda hook: sorted(models_of(hook)) == sorted(names))
        await slow.until(lambda hook: len(hook.deliveries) == delivery.CONCURRENCY)
        assert len(slow.deliveries) == delivery.CONCURRENCY, "the deliveries to it are limited"
        await client.alerting.delete_webhook("slow")


async def test_a_receiver_gets_the_events_of_its_downtime(yard: Yard, client: Client) -> None:
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

        await eventually(failing, "the webhook fails", timeout_s=TIMEOUT_S)
        (record,) = await client.alerting.webhooks()
        assert record.state.error is not None
        assert "cannot be reached" in record.state.error
        async with receiver(port) as back:
            await back.until(lambda hook: {"a", "b"} <= set(models_of(hook)))


async def test_delivery_resumes_after_a_restart_of_the_broker(yard: Yard, client: Client) -> None:
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


async def test_undelivered_events_are_listed(
    yard: Yard, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS", 2)
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard):
        hook.statuses = [410, 410]
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "a")

        async def dead() -> bool:
            (record,) = await client.alerting.webhooks()
            return bool(record.state.dead)

        await eventually(dead, "the event is undelivered", timeout_s=TIMEOUT_S)
        (record,) = await client.alerting.webhooks()
        (undelivered,) = record.state.dead
        assert (undelivered.id, undelivered.attempts) == (hook.deliveries[0].id, 2)
        assert undelivered.error == "It answered 410."
        states = BucketStore(client.bus, buckets.WEBHOOK_STATES)
        stored = await states.get("me")
        assert isinstance(stored, WebhookState)
        assert stored.dead == (undelivered,)


async def test_secrets_are_only_in_their_files(yard: Yard, client: Client) -> None:
    async with receiver() as hook, monitor(yard):
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        assert stored.secret is not None
        assert (await client.alerting.test_webhook("me")).delivered
        public = msgspec.json.encode(await client.alerting.webhooks()).decode()
        stored_texts = [
            msg.data.decode()
            for stream in (streams.EVENTS.name, buckets.WEBHOOKS.stream, buckets.WEBHOOK_STATES.stream)
            for msg in await read_stream(client.bus, stream, ">")
        ]
        for text in (public, *stored_texts):
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


async def test_programs_of_the_hooks_file_receive_events(
    yard: Yard, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FILE_CHECK_S", 0.05)
    runner = await yard.bus(Role.RUNNER)
    output = tmp_path / "output"
    script = (
        "import os, sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '|' + ','.join(sorted(os.environ)))"
    )
    argv = (sys.executable, "-c", script, str(output))
    bell = CommandHook(name="bell", argv=argv)
    write_hooks(yard.settings, [bell])
    async with monitor(yard):
        (record,) = await client.alerting.webhooks()
        assert (record.webhook.name, record.webhook.target) == ("bell", Path(sys.executable).name)
        await ready(runner, "a")

        async def ran() -> bool:
            return output.exists() and "|" in output.read_text()

        await eventually(ran, "the program ran", timeout_s=TIMEOUT_S)
        body, _, names = output.read_text().partition("|")
        assert json.loads(body)["data"]["model"] == "a"
        assert not [name for name in names.split(",") if name.startswith("YARD_")]
        with pytest.raises(BadRequest, match=r"hooks\.toml"):
            await client.alerting.delete_webhook("bell")
        with pytest.raises(BadRequest, match=r"hooks\.toml"):
            await client.alerting.put_webhook(PutWebhook(name="bell", url="http://127.0.0.1:9/"))
        write_hooks(yard.settings, [bell, CommandHook(name="more", argv=("/bin/true",))])

        async def both() -> bool:
            return len(await client.alerting.webhooks()) == 2

        await eventually(both, "both programs are listed", timeout_s=TIMEOUT_S)
    # A file that is removed during the downtime counts, too.
    hooks_path(yard.settings).unlink()
    async with monitor(yard):
        assert await client.alerting.webhooks() == ()


async def test_a_failing_or_missing_program_is_reported(yard: Yard, client: Client) -> None:
    programs = [
        CommandHook(name="fails", argv=("/bin/false",)),
        CommandHook(name="missing", argv=("/nowhere/program",)),
    ]
    write_hooks(yard.settings, programs)
    async with monitor(yard):
        assert (await client.alerting.test_webhook("fails")).error == "It ended with 1."
        assert "cannot be run" in ((await client.alerting.test_webhook("missing")).error or "")


async def test_a_monitor_killed_before_a_delivery_repeats_it(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    process = monitor_process(yard)
    await process.start()
    async with receiver() as hook:

        async def served() -> bool:
            try:
                return await client.alerting.webhooks() is not None
            except YardError:
                return False

        await eventually(served, "the monitor answers", timeout_s=TIMEOUT_S)
        stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        hook.statuses = [HANG, HANG]
        await ready(runner, "a", "b")
        await hook.until(lambda hook: len(hook.deliveries) == 2)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await ready(runner, "c")
        await process.start()
        await hook.until(lambda hook: set(models_of(hook)) == {"a", "b", "c"})
        assert stored.secret is not None
        assert all(is_signed(delivered, stored.secret) for delivered in hook.deliveries)
        assert {delivered.id for delivered in hook.deliveries} == {delivered.id for delivered in hook.taken}
        await process.stop(5.0)


async def test_a_webhook_with_a_reused_name_gets_no_old_events(yard: Yard, client: Client) -> None:
    runner = await yard.bus(Role.RUNNER)
    async with receiver() as hook, monitor(yard) as bus:
        stale = msgspec.structs.replace(_hook("me"), created_at=1.0)
        await bus.js.add_consumer(streams.EVENTS.name, delivery._consumer_config(stale))
        await ready(runner, "before")
        await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        await ready(runner, "after")
        await hook.until(lambda hook: bool(hook.taken))
        assert models_of(hook) == ["after"]


def _hook(name: str) -> Webhook:
    return Webhook(name=name, kind=HookKind.HTTP, target="http://h", wanted=WebhookFilter(), created_at=2.0)


async def test_names_of_link_local_addresses_are_not_resolved() -> None:
    # The resolver turns this number into 169.254.169.254.
    with pytest.raises(ForbiddenAddress):
        await GuardedResolver().resolve("2852039166", 80)
    assert [result["host"] for result in await GuardedResolver().resolve("localhost", 80)] == ["127.0.0.1"]


async def test_a_lost_secret_is_reported_and_can_be_put_again(yard: Yard, client: Client) -> None:
    async with receiver() as hook:
        async with monitor(yard):
            await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
        (yard.settings.credentials / "webhooks" / "me.json").unlink()
        async with monitor(yard):
            assert "put it again" in ((await client.alerting.test_webhook("me")).error or "")
            stored = await client.alerting.put_webhook(PutWebhook(name="me", url=hook.url))
            assert stored.secret is not None
            assert (await client.alerting.test_webhook("me")).delivered


async def test_the_cli_edits_the_hooks_file(yard: Yard) -> None:
    program = await run_command(
        yard, "webhook", "exec", "bell", "--severity", "critical", "--", "/bin/true", "--loud"
    )
    assert program.code == 0, program.err
    (written,) = read_hooks(yard.settings)
    assert (written.argv, written.wanted.severity) == (("/bin/true", "--loud"), "critical")
    wrong = await run_command(yard, "webhook", "exec", "bell", "--", "relative")
    assert (wrong.code, "absolute path" in wrong.err) == (1, True)
    assert (await run_command(yard, "webhook", "rm", "bell")).code == 0
    assert read_hooks(yard.settings) == ()


async def test_the_cli_reports_a_refusing_receiver(yard: Yard) -> None:
    async with receiver() as hook, monitor(yard):
        hook.statuses = [500, 500]
        assert (await run_command(yard, "webhook", "add", "me", hook.url)).code == 0
        assert await refusal_code(yard, "webhook", "test", "me") == "webhook_refused"
        assert (await run_command(yard, "webhook", "test", "me")).code == 0
