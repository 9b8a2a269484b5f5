"""`/ws`: a snapshot of the state on connect, then deltas, merged to one message every 500 ms."""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import Record
from schemas.errors import Unauthorized
from schemas.instances import LIVE, Instance
from schemas.metrics import InstanceMetrics
from services.gateway.access import ApiKeys
from services.gateway.http import bearer

log = logs.get(__name__)

DELTA_INTERVAL_S = 0.5
PING_INTERVAL_S = 20.0
MAX_QUEUED_MESSAGES = 64
"""How far a viewer may fall behind before its connection is aborted; it reconnects to a new snapshot."""
PROTOCOL = "yard.v1"
_KEY_PROTOCOL = "yard.key."
_UNAUTHORIZED_CLOSE = 4401
_ACTIVITY = "activity"
Changes = dict[str, dict[str, object]]


class _ViewerCommand(Record):
    """`logs`: follow the log of `instance`, or of none."""

    type: str
    instance: str | None = None


class Feed:
    """Sends the state of `caches` to every viewer; the broker's load does not depend on their number."""

    def __init__(self, bus: Bus, tasks: Tasks, keys: ApiKeys, caches: Mapping[str, BucketCache[Any]]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._keys = keys
        self._caches = caches
        self._viewers: set[Viewer] = set()
        self._activity: dict[str, InstanceMetrics] = {}
        """The newest metrics of every instance, which no bucket has."""
        self._changes: Changes = {}
        self._dirty = asyncio.Event()

    async def open(self) -> None:
        """Follow the caches, and what changes between two records: progress and activity."""
        for name, cache in self._caches.items():
            cache.listen(partial(self._changed, name))
        await self._bus.subscribe(subjects.DOWNLOAD_PROGRESS, partial(self._on_progress, "downloads"))
        await self._bus.subscribe(subjects.INSTANCE_METRIC, self._on_activity)
        self._caches[buckets.INSTANCES.name].listen(self._on_instance)
        await self._bus.subscribe(subjects.LIBRARY_JOB_PROGRESS, partial(self._on_progress, "jobs"))
        self._tasks.spawn(self._run(), "feed deltas")
        self._tasks.spawn(self._watch_broker(), "feed broker")

    async def _on_progress(self, bucket: str, tokens: dict[str, str], value: object) -> None:
        (key,) = tokens.values()
        self._changed(bucket, key, value)

    async def _on_activity(self, tokens: dict[str, str], activity: InstanceMetrics) -> None:
        self._activity[tokens["instance"]] = activity
        self._changed(_ACTIVITY, tokens["instance"], activity)

    def _on_instance(self, key: str, value: object) -> None:
        ended = value is None or (isinstance(value, Instance) and value.state not in LIVE)
        if ended and self._activity.pop(key, None) is not None:
            self._changed(_ACTIVITY, key, None)

    def _changed(self, bucket: str, key: str, value: object) -> None:
        if self._viewers:
            self._changes.setdefault(bucket, {})[key] = value
            self._dirty.set()

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            changes, self._changes = self._changes, {}
            self._send(_message("delta", changes))
            await asyncio.sleep(DELTA_INTERVAL_S)

    def _send(self, message: bytes) -> None:
        for viewer in tuple(self._viewers):
            viewer.send(message)

    async def _watch_broker(self) -> None:
        # Without the broker nothing changes, and what viewers show becomes stale.
        connected = True
        while True:
            await asyncio.sleep(DELTA_INTERVAL_S)
            if connected is not self._bus.connected:
                connected = self._bus.connected
                self._send(_message("broker", {"connected": connected}))

    async def on_connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=PING_INTERVAL_S, compress=True, protocols=(PROTOCOL,))
        await socket.prepare(request)
        try:
            self._keys.check(bearer(request) or _key_of_protocols(request))
        except Unauthorized:
            await socket.close(code=_UNAUTHORIZED_CLOSE, message=b"an API key is needed")
            return socket
        viewer = Viewer(self._bus, request, socket)
        state = {name: cache.values for name, cache in self._caches.items()}
        viewer.send(_message("snapshot", {**state, _ACTIVITY: self._activity}))
        if not self._bus.connected:
            viewer.send(_message("broker", {"connected": False}))
        self._viewers.add(viewer)
        try:
            await viewer.run()
        finally:
            self._viewers.discard(viewer)
        return socket

    async def close(self) -> None:
        """Close every connection, so that pages reconnect at once."""
        for viewer in tuple(self._viewers):
            await viewer.close()


class Viewer:
    def __init__(self, bus: Bus, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._bus = bus
        self._request = request
        self._socket = socket
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUEUED_MESSAGES)
        self._logs: asyncio.Task[None] | None = None

    def send(self, message: bytes) -> None:
        """Queue a message; the connection of a viewer too far behind is aborted."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("viewer_too_slow")
            if self._request.transport is not None:
                self._request.transport.abort()

    async def run(self) -> None:
        writer = asyncio.create_task(self._write())
        try:
            async for incoming in self._socket:
                if incoming.type is WSMsgType.TEXT:
                    self._on_command(incoming.data)
        finally:
            writer.cancel()
            self._stop_logs()

    async def close(self) -> None:
        await self._socket.close(code=1001, message=b"the gateway stops")

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._socket.send_str((await self._outgoing.get()).decode())

    def _on_command(self, text: str) -> None:
        try:
            command = msgspec.json.decode(text, type=_ViewerCommand)
        except msgspec.DecodeError as error:
            log.info("viewer_command_invalid", error=str(error))
            return
        if command.type == "logs":
            self._stop_logs()
            if command.instance:
                self._logs = asyncio.create_task(self._follow_logs(command.instance))

    def _stop_logs(self) -> None:
        if self._logs is not None:
            self._logs.cancel()
            self._logs = None

    async def _follow_logs(self, instance: str) -> None:
        lines = replay(self._bus, subjects.INSTANCE_LOG, instance=instance)
        try:
            async for batch in lines:
                content = {"instance": instance, "model": batch.payload.model, "lines": batch.payload.lines}
                await self._outgoing.put(_message("log", content))
        except ValueError as error:
            log.info("log_follow_failed", error=str(error))
        finally:
            await lines.aclose()


def _message(kind: str, data: object) -> bytes:
    return msgspec.json.encode({"type": kind, "data": data})


def _key_of_protocols(request: web.Request) -> str | None:
    """The key as a subprotocol, base64url: browsers cannot set headers on a WebSocket."""
    for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = offered.strip().removeprefix(_KEY_PROTOCOL)
        if encoded != offered.strip():
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return None
