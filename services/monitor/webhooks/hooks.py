"""The hooks of the yard: those that were put over the wire, and those of the machine's own file."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nats.errors
import nats.js.errors

from modelyard.bus import audit, logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks, cancel
from modelyard.host.hooks_file import FILE, BadFile, CommandHook, hooks_file, read_hooks
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
from services.monitor.owned import Owned
from services.monitor.webhooks.command import CommandSender
from services.monitor.webhooks.delivery import Delivery, consumer_name
from services.monitor.webhooks.health import Health
from services.monitor.webhooks.occurrence import trial
from services.monitor.webhooks.secrets import HookSecret, Secrets
from services.monitor.webhooks.sender import NotDelivered, Sender
from services.monitor.webhooks.signing import check_secret, new_secret

if TYPE_CHECKING:
    # `webhooks.http` is loaded by the first hook of its kind: it brings megabytes, and most yards have none.
    import aiohttp

log = logs.get(__name__)

MAX_HOOKS = 32
LOOK_S = 2.0
"""How often the file is looked at."""
_NEVER = -1.0
_LOST = "Its URL and secret are not on this machine any more; put it again."


class Hooks:
    """Runs a delivery for each, and answers the `webhook` commands."""

    def __init__(
        self, bus: Bus, settings: Settings, tasks: Tasks, own: Owned[Webhook], health: Health
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._tasks = tasks
        self._own = own
        self._health = health
        self._secrets = Secrets(settings)
        self._session: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()
        self._senders: dict[str, Sender] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._programs: dict[str, CommandHook] = {}
        self._read_at: float | None = _NEVER

    @classmethod
    async def start(cls, bus: Bus, settings: Settings, tasks: Tasks) -> "Hooks":
        """With every hook delivering."""
        health = Health(await Owned.read(bus, buckets.WEBHOOK_STATES))
        hooks = cls(bus, settings, tasks, await Owned.read(bus, buckets.WEBHOOKS), health)
        tasks.before_cancel(hooks._close)
        await hooks._open()
        return hooks

    async def add_to(self, commands: Commands) -> None:
        """Answer from now on."""
        await commands.add(subjects.WEBHOOK_PUT, self.put)
        await commands.add(subjects.WEBHOOK_LIST, self.list)
        await commands.add(subjects.WEBHOOK_DELETE, self.delete)
        await commands.add(subjects.WEBHOOK_TEST, self.test)

    async def _open(self) -> None:
        over_wire = {name for name, hook in self._own.values.items() if hook.kind is HookKind.HTTP}
        self._secrets.keep_only(over_wire)
        for name in over_wire:
            await self._begin(self._own.values[name])
        await self._look()
        self._tasks.spawn(self._health.run(), "webhook health")
        self._tasks.spawn(self._keep_looking(), "webhook file")

    async def _close(self) -> None:
        await cancel(*self._running.values())
        if self._session is not None:
            await self._session.close()

    async def put(self, asked: PutWebhook) -> WebhookStored:
        """Tell this URL from now on."""
        from services.monitor.webhooks.http import check_url, shown

        url = check_url(asked.url)
        async with self._lock:
            before = self._own.values.get(asked.name)
            self._check_place(asked.name, before)
            known = self._secrets.read(asked.name) if before else None
            given = check_secret(asked.secret) if asked.secret else None
            secret = given or (known.secret if known else new_secret())
            hook = Webhook(
                name=asked.name,
                kind=HookKind.HTTP,
                target=shown(url),
                wanted=asked.wanted,
                created_at=before.created_at if before else time.time(),
            )
            await asyncio.to_thread(self._secrets.write, hook.name, HookSecret(url=asked.url, secret=secret))
            await self._own.put(hook.name, hook)
            await self._begin(hook)
        audit.changed(f"webhook {hook.name}", before, hook)
        return WebhookStored(webhook=hook, secret=None if known and not given else secret)

    def _check_place(self, name: str, before: Webhook | None) -> None:
        if before is None and len(self._own.values) >= MAX_HOOKS:
            raise Conflict(f"There are {MAX_HOOKS} webhooks already; delete one first.")
        if before is not None and before.kind is HookKind.COMMAND:
            raise BadRequest(f"{name} is a program in {FILE} of the first machine.", param="name")

    async def list(self, _asked: ListWebhooks) -> WebhookList:
        """All of them, by name."""
        return WebhookList(
            webhooks=tuple(
                WebhookRecord(webhook=hook, state=self._health.of(name))
                for name, hook in sorted(self._own.values.items())
            )
        )

    async def delete(self, ref: WebhookRef) -> Webhook:
        """Tell it nothing more. What runs on this machine only its file can end."""
        async with self._lock:
            hook = self._find(ref.name)
            if hook.kind is HookKind.COMMAND:
                raise BadRequest(
                    f"{ref.name} is a program in {FILE} of the first machine; take it out there.",
                    param="name",
                )
            await self._end(hook)
            self._secrets.forget(hook.name)
        audit.changed(f"webhook {hook.name}", hook, None)
        return hook

    async def test(self, ref: WebhookRef) -> WebhookTested:
        """Tell it something harmless now."""
        hook = self._find(ref.name)
        sender = self._senders.get(hook.name)
        if sender is None:
            return WebhookTested(delivered=False, error=_LOST)
        try:
            await sender.send(trial(hook.name, new_id(), self._bus.source))
        except NotDelivered as error:
            return WebhookTested(delivered=False, error=str(error))
        return WebhookTested(delivered=True)

    def _find(self, name: str) -> Webhook:
        if (hook := self._own.values.get(name)) is None:
            raise NotFound(f"There is no webhook {name!r}; `yard webhook list` shows them.", param="name")
        return hook

    async def _begin(self, hook: Webhook) -> None:
        """Deliver as it says now, whatever it said before."""
        await self._halt(hook.name)
        sender = self._sender(hook)
        if sender is None:
            self._health.failed(hook.name, _LOST)
            return
        self._senders[hook.name] = sender
        delivery = Delivery(self._bus, hook, sender, self._health)
        self._running[hook.name] = self._tasks.spawn(delivery.run(), f"webhook {hook.name}")

    def _sender(self, hook: Webhook) -> Sender | None:
        if hook.kind is HookKind.COMMAND:
            return CommandSender(self._programs[hook.name].argv, self._settings.home)
        secret = self._secrets.read(hook.name)
        if secret is None:
            return None
        with contextlib.suppress(BadRequest):
            return self._http_sender(secret)
        return None

    def _http_sender(self, secret: HookSecret) -> Sender:
        from services.monitor.webhooks.http import HttpSender, check_url, new_session

        url = check_url(secret.url)
        if self._session is None:
            self._session = new_session()
        return HttpSender(self._session, url, secret.secret)

    async def _halt(self, name: str) -> None:
        self._senders.pop(name, None)
        if (running := self._running.pop(name, None)) is not None:
            await cancel(running)

    async def _end(self, hook: Webhook) -> None:
        await self._halt(hook.name)
        await self._own.delete(hook.name)
        await self._health.forget(hook.name)
        with contextlib.suppress(nats.js.errors.NotFoundError, TimeoutError, nats.errors.Error):
            await self._bus.js.delete_consumer(streams.EVENTS.name, consumer_name(hook.name))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:
                log.exception("hooks_not_read")

    async def _look(self) -> None:
        """Follow the file; one that cannot be used changes nothing."""
        changed_at = _changed_at(hooks_file(self._settings))
        if changed_at == self._read_at:
            return
        try:
            named = {hook.name: hook for hook in await asyncio.to_thread(read_hooks, self._settings)}
        except BadFile as error:
            log.error("hooks_refused", error=str(error))  # noqa: TRY400 - a sentence, no traceback
            self._read_at = changed_at
            return
        async with self._lock:
            await self._follow_file(named)
        self._read_at = changed_at

    async def _follow_file(self, named: dict[str, CommandHook]) -> None:
        for name, hook in tuple(self._own.values.items()):
            if hook.kind is HookKind.COMMAND and name not in named:
                await self._end(hook)
        for name, program in named.items():
            known = self._own.values.get(name)
            if known is not None and known.kind is HookKind.HTTP:
                log.error("hook_name_taken", webhook=name)
            elif self._programs.get(name) != program:
                await self._begin_program(program, known)
        self._programs = {name: each for name, each in named.items() if name in self._running}

    async def _begin_program(self, program: CommandHook, known: Webhook | None) -> None:
        hook = Webhook(
            name=program.name,
            kind=HookKind.COMMAND,
            target=Path(program.argv[0]).name,
            wanted=program.wanted,
            created_at=known.created_at if known else time.time(),
        )
        if hook != known:
            await self._own.put(hook.name, hook)
        self._programs[hook.name] = program
        await self._begin(hook)


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
