"""`yard start`."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say
from modelyard.cli.text import duration, spell_duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.instances import Instance
    from schemas.models import ModelStarting

_TIMEOUT_S = 3600.0
_REPEAT_S = 2.0


def register(verbs: Verbs) -> None:
    parser = verbs.add("start", "Start a model and wait until it is ready.", _start)
    parser.add_argument("model", metavar="MODEL", help="its name or an alias")
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until it is ready (the default), or return as soon as the start is accepted",
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=_TIMEOUT_S,
        metavar="TIME",
        help="how long to wait (default: 1h); the start goes on even so",
    )


async def _start(yard: "Client", arguments: argparse.Namespace) -> None:
    accepted = await yard.start(arguments.model)
    if not arguments.wait:
        if arguments.json:
            emit(accepted)
        else:
            where = f" (instance {accepted.instance})" if accepted.instance else f": {accepted.reason}"
            say(f"{accepted.model} is {accepted.state}{where}.")
        return
    try:
        ready = await _wait(yard, accepted, arguments)
    except asyncio.CancelledError:
        print(
            f"\n{accepted.model} goes on starting; `yard stop {accepted.model}` ends that.", file=sys.stderr
        )
        raise
    if arguments.json:
        emit(ready)
    else:
        took = f" after {spell_duration(ready.load_s)}" if ready.load_s is not None else ""
        say(f"{ready.model} is ready{took}. Talk to it: yard chat {ready.model}")


async def _wait(yard: "Client", accepted: "ModelStarting", arguments: argparse.Namespace) -> "Instance":
    from schemas.errors import DeadlineExceeded

    shown, model = not arguments.json, accepted.model
    try:
        async with asyncio.timeout(arguments.timeout):
            instance = await _wait_for_instance(yard, accepted, shown=shown)
            if shown and sys.stdout.isatty():
                return await _spin(yard, model, instance)
            return await _tell(yard, model, instance, shown=shown)
    except TimeoutError:
        raise DeadlineExceeded(
            f"{model} was not ready after {spell_duration(arguments.timeout)}; it goes on starting."
        ) from None


async def _wait_for_instance(yard: "Client", accepted: "ModelStarting", *, shown: bool) -> str:
    """A start that waits is requested again before it expires."""
    reason = None
    while accepted.instance is None:
        if shown and accepted.reason != reason:
            say(f"{accepted.model} waits: {accepted.reason}.")
        reason = accepted.reason
        await asyncio.sleep(_REPEAT_S)
        accepted = await yard.start(accepted.model)
    return accepted.instance


async def _spin(yard: "Client", model: str, instance: str) -> "Instance":
    from modelyard.cli.output import screen

    with screen().status(f"{model}: starting") as status:
        async for step in yard.starting(model, instance):
            status.update(f"{model}: {step.state}")
    return step


async def _tell(yard: "Client", model: str, instance: str, *, shown: bool) -> "Instance":
    before = None
    async for step in yard.starting(model, instance):
        if shown and step.state not in (before, "ready"):
            say(f"{model} is {step.state}")
        before = step.state
    return step
