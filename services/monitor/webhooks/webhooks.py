"""The webhooks of the yard, put by command or named in the machine's own file, and the `webhook` commands."""

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
import nats.errors
import nats.js.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore, Records
from modelyard.bus.tasks import Tasks, cancel
from modelyard.host.hooks_file import FILE, CommandHook, HooksFileError, hooks_path, read_hooks
from modelyard.host.settings import Settings
from schemas import buckets, streams, subjects
from schemas.base import new_id
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.webhooks import (
    HookKind,
    ListWebhooks,
    PutWebhook,
    Webhook,
    WebhookList,
    WebhookRecord,
    WebhookRef,
    WebhookStored,
    WebhookTested,
)
from services.monitor.webhooks.delivery import WebhookDelivery, WebhookHealth, consumer_name
from services.monitor.webhooks.events import make_test_event
from services.monitor.webhooks.secrets import WebhookSecret, WebhookSecrets, check_secret, new_secret
from services.monitor.webhooks.senders import (
    CommandSender,
    DeliveryFailed,
    HttpSender,
    WebhookSender,
    check_url,
    new_session,
    public_part,
)

log = logs.get(__name__)

MAX_WEBHOOKS = 32
FILE_CHECK_S = 2.0
_NEVER = -1.0
_TARGET_LOST = "Its URL and secret are not on this machine any more; put it again."


class Webhooks:
    """Runs a delivery for each webhook."""

    def __init__(
        self, bus: Bus, settings: Settings, tasks: Tasks, records: Records[Webhook], health: WebhookHealth
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._tasks = tasks
        self._records = records
        self._health = health
        self._secrets = WebhookSecrets(settings)
        self._session: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()
        self._senders: dict[str, WebhookSender] = {}
        self._deliveries: dict[str, asyncio.Task[None]] = {}
        self._programs: dict[str, CommandHook] = {}
        self._file_changed_at: float | None = _NEVER

    @classmethod
    async def start(cls, bus: Bus, settings: Settings, tasks: Tasks) -> "Webhooks":
        states = BucketStore(bus, buckets.WEBHOOK_STATES)
        health = WebhookHealth(states, await read_bucket(bus, buckets.WEBHOOK_STATES))
        records = await Records.start(bus, buckets.WEBHOOKS, tasks, "webhook")
        webhooks = cls(bus, settings, tasks, records, health)
        tasks.before_cancel(webhooks._close)
        await webhooks._start_all()
        return webhooks

    async def serve(self, commands: Commands) -> None:
        await commands.add(subjects.WEBHOOK_PUT, self.put)
        await commands.add(subjects.WEBHOOK_LIST, self.list)
        await commands.add(subjects.WEBHOOK_DELETE, self.delete)
        await commands.add(subjects.WEBHOOK_TEST, self.test)

    async def _start_all(self) -> None:
        http = {name for name, hook in self._records.values.items() if hook.kind is HookKind.HTTP}
        self._secrets.delete_except(http)
        for name in http:
            await self._start_delivery(self._records.values[name])
        await self._follow_file()
        self._tasks.spawn(self._health.run(), "webhook health")
        self._tasks.spawn(self._watch_file(), "webhook file")

    async def _close(self) -> None:
        await cancel(*self._deliveries.values())
        if self._session is not None:
            await self._session.close()

    async def put(self, command: PutWebhook) -> WebhookStored:
        url = check_url(command.url)
        async with self._lock:
            before = self._records.values.get(command.name)
            self._check_name(command.name, before)
            former = self._secrets.read(command.name) if before else None
            given = check_secret(command.secret) if command.secret else None
            secret = given or (former.secret if former else new_secret())
            hook = Webhook(
                name=command.name,
                kind=HookKind.HTTP,
                target=public_part(url),
                wanted=command.wanted,
                created_at=before.created_at if before else time.time(),
            )
            stored = WebhookSecret(url=command.url, secret=secret)
            await asyncio.to_thread(self._secrets.write, hook.name, stored)
            await self._records.put(hook.name, hook)
            await self._start_delivery(hook)
        return WebhookStored(webhook=hook, secret=None if former and not given else secret)

    def _check_name(self, name: str, before: Webhook | None) -> None:
        if before is None and len(self._records.values) >= MAX_WEBHOOKS:
            raise Conflict(f"There are {MAX_WEBHOOKS} webhooks already; delete one first.")
        if before is not None and before.kind is HookKind.COMMAND:
            raise BadRequest(f"{name} is a program in {FILE} of the first machine.", param="name")

    async def list(self, _query: ListWebhooks) -> WebhookList:
        return WebhookList(
            webhooks=tuple(
                WebhookRecord(webhook=hook, state=self._health.state(name))
                for name, hook in sorted(self._records.values.items())
            )
        )

    async def delete(self, ref: WebhookRef) -> Webhook:
        """Delete a webhook of a URL; a program is removed from the file instead."""
        async with self._lock:
            hook = self._find(ref.name)
            if hook.kind is HookKind.COMMAND:
                raise BadRequest(
                    f"{ref.name} is a program in {FILE} of the first machine; take it out there.",
                    param="name",
                )
            await self._delete(hook)
            self._secrets.delete(hook.name)
        return hook

    async def test(self, ref: WebhookRef) -> WebhookTested:
        hook = self._find(ref.name)
        sender = self._senders.get(hook.name)
        if sender is None:
            return WebhookTested(delivered=False, error=_TARGET_LOST)
        try:
            await sender.send(make_test_event(hook.name, new_id(), self._bus.source))
        except DeliveryFailed as error:
            return WebhookTested(delivered=False, error=str(error))
        return WebhookTested(delivered=True)

    def _find(self, name: str) -> Webhook:
        if (hook := self._records.values.get(name)) is None:
            raise NotFound(f"There is no webhook {name!r}; `yard webhook list` shows them.", param="name")
        return hook

    async def _start_delivery(self, hook: Webhook) -> None:
        await self._stop_delivery(hook.name)
        sender = self._sender(hook)
        if sender is None:
            self._health.record_failure(hook.name, _TARGET_LOST)
            return
        self._senders[hook.name] = sender
        delivery = WebhookDelivery(self._bus, hook, sender, self._health)
        self._deliveries[hook.name] = self._tasks.spawn(delivery.run(), f"webhook {hook.name}")

    def _sender(self, hook: Webhook) -> WebhookSender | None:
        if hook.kind is HookKind.COMMAND:
            return CommandSender(self._programs[hook.name].argv, self._settings.home)
        secret = self._secrets.read(hook.name)
        if secret is None:
            return None
        with contextlib.suppress(BadRequest):
            url = check_url(secret.url)
            if self._session is None:
                self._session = new_session()
            return HttpSender(self._session, url, secret.secret)
        return None

    async def _stop_delivery(self, name: str) -> None:
        self._senders.pop(name, None)
        if (delivery := self._deliveries.pop(name, None)) is not None:
            await cancel(delivery)

    async def _delete(self, hook: Webhook) -> None:
        await self._stop_delivery(hook.name)
        await self._records.delete(hook.name)
        await self._health.delete(hook.name)
        with contextlib.suppress(nats.js.errors.NotFoundError, TimeoutError, nats.errors.Error):
            await self._bus.js.delete_consumer(streams.EVENTS.name, consumer_name(hook.name))

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(FILE_CHECK_S)
            try:
                await self._follow_file()
            except Exception:
                log.exception("hooks_file_failed")

    async def _follow_file(self) -> None:
        """Apply the file if it has changed; an invalid one changes nothing."""
        changed_at = _changed_at(hooks_path(self._settings))
        if changed_at == self._file_changed_at:
            return
        try:
            programs = {hook.name: hook for hook in await asyncio.to_thread(read_hooks, self._settings)}
        except HooksFileError as error:
            log.error("hooks_file_refused", error=str(error))  # noqa: TRY400 - a sentence, no traceback
            self._file_changed_at = changed_at
            return
        async with self._lock:
            await self._apply_file(programs)
        self._file_changed_at = changed_at

    async def _apply_file(self, programs: dict[str, CommandHook]) -> None:
        for name, hook in tuple(self._records.values.items()):
            if hook.kind is HookKind.COMMAND and name not in programs:
                await self._delete(hook)
        for name, program in programs.items():
            stored = self._records.values.get(name)
            if stored is not None and stored.kind is HookKind.HTTP:
                log.error("hook_name_taken", webhook=name)
            elif self._programs.get(name) != program:
                await self._start_program(program, stored)
        self._programs = {name: program for name, program in programs.items() if name in self._deliveries}

    async def _start_program(self, program: CommandHook, stored: Webhook | None) -> None:
        hook = Webhook(
            name=program.name,
            kind=HookKind.COMMAND,
            target=Path(program.argv[0]).name,
            wanted=program.wanted,
            created_at=stored.created_at if stored else time.time(),
        )
        if hook != stored:
            await self._records.put(hook.name, hook)
        self._programs[hook.name] = program
        await self._start_delivery(hook)


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
