"""`yard ps`, `start`, `stop`, `plan`, `groups` and `group`: what runs, and rules for the scheduler."""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from operator import attrgetter

from modelyard.cli.arguments import convert, parse_duration
from modelyard.cli.output import on_interrupt, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, listing, print_list, screen
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_duration
from schemas import subjects
from schemas.errors import DeadlineExceeded
from schemas.instances import COMING, Instance
from schemas.models import ModelStarting, ModelStopping
from schemas.registry import GroupKind, ModelGroup

_START_TIMEOUT_S = 3600.0
_REPEAT_S = 2.0


def _state(instance: Instance) -> str:
    if instance.progress is None or instance.state not in COMING:
        return instance.state
    return f"{instance.state} {instance.progress:.0%}"


_INSTANCES: dict[str, Column] = {
    "MODEL": "model",
    "INSTANCE": "instance",
    "NODE": "node",
    "ENGINE": "engine",
    "STATE": _state,
    ">BUSY": lambda instance: f"{instance.busy}/{instance.slots}",
    ">SINCE": lambda instance: format_age(instance.changed_at),
}
_GROUPS: dict[str, Column] = {"GROUP": "name", "RULE": "kind", "MODELS": "models"}


def register(verbs: Mapping[str, VerbParser]) -> None:
    verbs["ps"].flag("-a", "--all", text="include stopped instances")
    online(verbs["ps"], _ps, json="a JSON list")
    start = verbs["start"]
    start.add_argument("model")
    text = "wait until it is ready (the default), or return when the start is accepted"
    start.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "how long to wait (default: 1h); the start continues after that"
    start.add_argument("--timeout", type=parse_duration, default=_START_TIMEOUT_S, metavar="TIME", help=text)
    online(start, _start)
    verbs["stop"].describe("It finishes the requests it has begun, then frees its memory.")
    command(verbs["stop"], subjects.MODEL_STOP, _show_stopping)
    verbs["plan"].describe("Nothing is changed.")
    command(verbs["plan"], subjects.MODEL_PLAN, "{0.text}")
    show = listing("There are no groups.", _GROUPS, "groups")
    command(verbs["groups"], subjects.GROUP_LIST, show, document=attrgetter("groups"), json="a JSON list")
    group = verbs["group"]
    group.add_argument("name", help="the group's name")
    add_rule = group.exclusive(required=True)
    add_rule("--apart", nargs="+", metavar="MODEL", help="at most one of them runs at a time")
    add_rule("--together", nargs="+", metavar="MODEL", help="when one is started, all are")
    add_rule("--remove", action="store_true", help="remove the group")
    online(group, _group)


async def _ps(yard: Client, arguments: argparse.Namespace) -> None:
    waiting = sorted((await yard.waiting()).values(), key=lambda model: model.since)
    instances = sorted((await yard.instances()).values(), key=attrgetter("model", "changed_at"))
    shown = [instance for instance in instances if arguments.all or instance.state != "stopped"]
    print_list(shown, _INSTANCES, empty="Nothing runs now.", arguments=arguments)
    if arguments.json:
        return
    for instance in shown:
        if instance.error:
            print_line(f"\n{instance.instance} ({instance.model}): {instance.error}")
    for model in waiting:
        waits = f" waits for {format_age(model.since)}: {model.reason}."
        print_line(f"\n{model.model}{waits if model.refused is None else f': {model.refused.error}'}")


async def _start(yard: Client, arguments: argparse.Namespace) -> None:
    accepted = await yard.start(arguments.model)
    model = accepted.model
    if not arguments.wait:
        detail = f" (instance {accepted.instance})" if accepted.instance else f": {accepted.reason}"
        print_result(arguments, accepted, f"{model} is {accepted.state}{detail}.")
        return
    with on_interrupt(lambda: f"{model} is still starting; `yard stop {model}` ends that."):
        ready = await _wait(yard, accepted, arguments)
    took = f" after {format_duration(ready.load_s)}" if ready.load_s is not None else ""
    print_result(arguments, ready, f"{ready.model} is ready{took}. Talk to it: yard chat {ready.model}")


async def _wait(yard: Client, accepted: ModelStarting, arguments: argparse.Namespace) -> Instance:
    shown, model = not arguments.json, accepted.model
    try:
        async with asyncio.timeout(arguments.timeout):
            instance = await _wait_for_instance(yard, accepted, shown=shown)
            return await _wait_until_ready(yard, model, instance, shown=shown)
    except TimeoutError:
        raise DeadlineExceeded(
            f"{model} was not ready after {format_duration(arguments.timeout)}; it is still starting."
        ) from None


async def _wait_for_instance(yard: Client, accepted: ModelStarting, *, shown: bool) -> str:
    """A start that waits is requested again before it expires."""
    reason = None
    while accepted.instance is None:
        if shown and accepted.reason != reason:
            print_line(f"{accepted.model} waits: {accepted.reason}.")
        reason = accepted.reason
        await asyncio.sleep(_REPEAT_S)
        accepted = await yard.start(accepted.model)
    return accepted.instance


async def _wait_until_ready(yard: Client, model: str, instance: str, *, shown: bool) -> Instance:
    with screen().status(f"{model}: starting") if shown and sys.stdout.isatty() else nullcontext() as spinner:
        before = None
        async for update in yard.starting(model, instance):
            if spinner is not None:
                spinner.update(f"{model}: {update.state}")
            elif shown and update.state not in (before, "ready"):
                print_line(f"{model} is {update.state}")
            before = update.state
    return update


def _show_stopping(stopping: ModelStopping) -> None:
    instances = ", ".join(stopping.instances)
    print_line(f"{stopping.model} {f'is stopping ({instances})' if instances else 'did not run'}.")


async def _group(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.remove:
        stored = await yard.remove_group(name=arguments.name)
        print_result(arguments, stored, f"The group {stored.name} is removed.")
        return
    kind = GroupKind.APART if arguments.apart else GroupKind.TOGETHER
    models = arguments.apart or arguments.together
    stored = await yard.put_group(
        convert({"name": arguments.name, "kind": kind, "models": models}, ModelGroup)
    )
    print_result(arguments, stored, f"The group {stored.name} holds from now on.")
