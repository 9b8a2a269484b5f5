"""`yard ps`."""

import argparse
from typing import TYPE_CHECKING

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from modelyard.client import Client
    from schemas.instances import Instance


def register(verbs: Verbs) -> None:
    parser = verbs.add("ps", "List the engines that run, and those that failed.", _ps, json="a JSON list")
    parser.add_argument("-a", "--all", action="store_true", help="the stopped ones too")


async def _ps(yard: "Client", arguments: argparse.Namespace) -> None:
    waiting = sorted((await yard.waits()).values(), key=lambda each: each.since)
    instances = sorted((await yard.instances()).values(), key=lambda each: (each.model, each.changed_at))
    shown = [each for each in instances if arguments.all or each.state != "stopped"]
    if arguments.json:
        emit(shown)
        return
    if shown:
        _print(shown)
    else:
        say("Nothing runs now.")
    for each in waiting:
        if each.refused is not None:
            say(f"\n{each.model}: {each.refused.error}")
        else:
            say(f"\n{each.model} waits for {ago(each.since)}: {each.reason}.")


def _state(instance: "Instance") -> str:
    """With how far it is, while it loads and its engine tells."""
    from schemas.instances import COMING

    if instance.progress is None or instance.state not in COMING:
        return instance.state
    return f"{instance.state} {instance.progress:.0%}"


def _print(instances: "list[Instance]") -> None:
    table(
        ("MODEL", "INSTANCE", "NODE", "ENGINE", "STATE", ">BUSY", ">SINCE"),
        [
            (
                each.model,
                each.instance,
                each.node,
                each.engine,
                _state(each),
                f"{each.busy}/{each.slots}",
                ago(each.changed_at),
            )
            for each in instances
        ],
    )
    for each in instances:
        if each.error:
            say(f"\n{each.instance} ({each.model}): {each.error}")
