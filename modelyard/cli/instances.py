"""`yard ps`, `start`, `stop`, `plan`, `groups` and `group`: what runs, and rules for the scheduler."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping

from modelyard.cli.arguments import convert, parse_duration
from modelyard.cli.output import print_json, print_line, print_result, screen, table
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import command, online
from modelyard.client import Client
from modelyard.text import format_age, format_duration
from schemas import subjects
from schemas.errors import DeadlineExceeded
from schemas.groups import GroupKind, GroupList, ModelGroup
from schemas.instances import COMING, Instance
from schemas.models import ModelStarting, ModelStopping

_START_TIMEOUT_S = 3600.0
_REPEAT_S = 2.0


def register(verbs: Mapping[str, VerbParser]) -> None:
    verbs["ps"].add_argument("-a", "--all", action="store_true", help="include stopped instances")
    online(verbs["ps"], _ps, json="a JSON list")
    start = verbs["start"]
    start.add_argument("model", metavar="MODEL", help="its name or an alias")
    start.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until it is ready (the default), or return when the start is accepted",
    )
    start.add_argument(
        "--timeout",
        type=parse_duration,
        default=_START_TIMEOUT_S,
        metavar="TIME",
        help="how long to wait (default: 1h); the start continues after that",
    )
    online(start, _start)
    verbs["stop"].describe("It finishes the requests it has begun, then frees its memory.")
    command(verbs["stop"], subjects.MODEL_STOP, _say_stopping, positional=("model",))
    verbs["plan"].describe("Nothing is changed.")
    command(verbs["plan"], subjects.MODEL_PLAN, "{0.text}", positional=("model",))
    command(
        verbs["groups"],
        subjects.GROUP_LIST,
        _show_groups,
        document=lambda reply: reply.groups,
        json="a JSON list",
    )
    group = verbs["group"]
    group.add_argument("name", metavar="NAME", help="the group's name")
    add_rule = group.exclusive(required=True)
    add_rule("--apart", nargs="+", metavar="MODEL", help="at most one of them runs at a time")
    add_rule("--together", nargs="+", metavar="MODEL", help="when one is started, all are")
    add_rule("--remove", action="store_true", help="remove the group")
    online(group, _group)


async def _ps(yard: Client, arguments: argparse.Namespace) -> None:
    waiting = sorted((await yard.waiting()).values(), key=lambda model: model.since)
    instances = sorted(
        (await yard.instances()).values(), key=lambda instance: (instance.model, instance.changed_at)
    )
    shown = [instance for instance in instances if arguments.all or instance.state != "stopped"]
    if arguments.json:
        print_json(shown)
        return
    if shown:
        _print_instances(shown)
    else:
        print_line("Nothing runs now.")
    for model in waiting:
        waits = f" waits for {format_age(model.since)}: {model.reason}."
        print_line(f"\n{model.model}{waits if model.refused is None else f': {model.refused.error}'}")


def _print_instances(instances: Iterable[Instance]) -> None:
    rows = [
        (
            *(instance.model, instance.instance, instance.node, instance.engine, _state(instance)),
            *(f"{instance.busy}/{instance.slots}", format_age(instance.changed_at)),
        )
        for instance in instances
    ]
    table(("MODEL", "INSTANCE", "NODE", "ENGINE", "STATE", ">BUSY", ">SINCE"), rows)
    for instance in instances:
        if instance.error:
            print_line(f"\n{instance.instance} ({instance.model}): {instance.error}")


def _state(instance: Instance) -> str:
    if instance.progress is None or instance.state not in COMING:
        return instance.state
    return f"{instance.state} {instance.progress:.0%}"


async def _start(yard: Client, arguments: argparse.Namespace) -> None:
    accepted = await yard.start(arguments.model)
    model = accepted.model
    if not arguments.wait:
        detail = f" (instance {accepted.instance})" if accepted.instance else f": {accepted.reason}"
        print_result(arguments, accepted, f"{model} is {accepted.state}{detail}.")
        return
    try:
        ready = await _wait(yard, accepted, arguments)
    except asyncio.CancelledError:
        print(f"\n{model} is still starting; `yard stop {model}` ends that.", file=sys.stderr)
        raise
    took = f" after {format_duration(ready.load_s)}" if ready.load_s is not None else ""
    print_result(arguments, ready, f"{ready.model} is ready{took}. Talk to it: yard chat {ready.model}")


async def _wait(yard: Client, accepted: ModelStarting, arguments: argparse.Namespace) -> Instance:
    shown, model = not arguments.json, accepted.model
    try:
        async with asyncio.timeout(arguments.timeout):
            instance = await _wait_for_instance(yard, accepted, shown=shown)
            if shown and sys.stdout.isatty():
                return await _wait_with_spinner(yard, model, instance)
            return await _wait_with_lines(yard, model, instance, shown=shown)
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


async def _wait_with_spinner(yard: Client, model: str, instance: str) -> Instance:
    with screen().status(f"{model}: starting") as status:
        async for update in yard.starting(model, instance):
            status.update(f"{model}: {update.state}")
    return update


async def _wait_with_lines(yard: Client, model: str, instance: str, *, shown: bool) -> Instance:
    before = None
    async for update in yard.starting(model, instance):
        if shown and update.state not in (before, "ready"):
            print_line(f"{model} is {update.state}")
        before = update.state
    return update


def _say_stopping(stopping: ModelStopping) -> None:
    if stopping.instances:
        print_line(f"{stopping.model} is stopping ({', '.join(stopping.instances)}).")
    else:
        print_line(f"{stopping.model} did not run.")


def _show_groups(reply: GroupList) -> None:
    if not reply.groups:
        print_line("There are no groups.")
        return
    rows = [(group.name, group.kind, ", ".join(group.models)) for group in reply.groups]
    table(("GROUP", "RULE", "MODELS"), rows)


async def _group(yard: Client, arguments: argparse.Namespace) -> None:
    if arguments.remove:
        stored = await yard.remove_group(arguments.name)
        print_result(arguments, stored, f"The group {stored.name} is removed.")
        return
    kind = GroupKind.APART if arguments.apart else GroupKind.TOGETHER
    models = arguments.apart or arguments.together
    stored = await yard.put_group(
        convert({"name": arguments.name, "kind": kind, "models": models}, ModelGroup)
    )
    print_result(arguments, stored, f"The group {stored.name} holds from now on.")
