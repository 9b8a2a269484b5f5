"""Flow control of the broker's consumers, answered when it is asked for.

nats-py looks four times a second, for every consumer, whether an answer is due. A service follows a dozen or
two of buckets, and at rest these looks were a third of its processor time.
"""

import asyncio
import weakref
from typing import Any

import nats.errors
from nats.js import JetStreamContext

_BEHIND_S = 0.02
"""How often it is looked whether all is handled that came before the broker's question."""
_asked: "weakref.WeakKeyDictionary[Any, asyncio.Event]" = weakref.WeakKeyDictionary()
_schedule = JetStreamContext._JSI.schedule_flow_control_response


def install() -> None:
    """Have every consumer of this process answer so; doing it twice changes nothing."""
    JetStreamContext._JSI.schedule_flow_control_response = _ask  # type: ignore[method-assign, assignment]
    JetStreamContext._JSI.check_flow_control_response = _answer  # type: ignore[method-assign]


def _ask(consumer: Any, reply: str) -> None:
    _schedule(consumer, reply)
    _event(consumer).set()


async def _answer(consumer: Any) -> None:
    """In the place of nats-py's loop; it is cancelled with its subscription."""
    asked = _event(consumer)
    while not consumer._conn.is_closed:
        await asked.wait()
        asked.clear()
        while consumer._fciseq - consumer._psub._pending_queue.qsize() < consumer._fcd:
            await asyncio.sleep(_BEHIND_S)
        reply, consumer._fcr, consumer._fcd = consumer._fcr, None, 0
        if reply and not consumer._conn.is_closed:
            try:
                await consumer._conn.publish(reply)
            except nats.errors.Error:
                # The connection is away; what follows on it is asked for anew.
                continue


def _event(consumer: Any) -> asyncio.Event:
    return _asked.setdefault(consumer, asyncio.Event())
