"""`yard nodes`, `yard cordon`, `yard uncordon`, `yard drain`."""

import argparse
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import ago, spell_size
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from modelyard.host.lan import DiscoveredYard
    from schemas.instances import Instance, Node

_MORE = """

Memory is what models may take and what they have reserved; `elsewhere` lists yards on the local network
that this home does not belong to.
"""


def register(verbs: Verbs) -> None:
    parser = verbs.add("nodes", "List the machines of the yard, and yards seen on the network.", _nodes)
    parser.description = f"{parser.description}{_MORE}"
    parser.add_argument("--no-look", action="store_true", help="do not look around on the local network")
    for verb, summary, cordoned, drain in (
        ("cordon", "Have a machine take no new starts; what runs there stays.", True, False),
        ("uncordon", "Have a machine take starts again.", False, False),
        ("drain", "Have a machine take no new starts, and let go of what runs there.", True, True),
    ):
        parser = verbs.add(verb, summary, _cordon)
        parser.add_argument("node", metavar="NODE", help="its name, as `yard nodes` shows it")
        parser.set_defaults(cordoned=cordoned, drain=drain)


async def _nodes(yard: "Client", arguments: argparse.Namespace) -> None:
    nodes, instances = await yard.nodes(), await yard.instances()
    left = sorted((await yard.departures()).values(), key=lambda one: one.at)
    seen = [] if arguments.no_look else await _elsewhere()
    listed = [row_of(node, instances.values()) for _, node in sorted(nodes.items())]
    if arguments.json:
        emit({"nodes": listed, "left": left, "elsewhere": seen})
        return
    _print(listed)
    for gone in left:
        say(f"\n{gone.node} left {ago(gone.at)} ago.")
    for one in seen:
        say(f"\nelsewhere: {one.node}, a yard at {one.nats_url} (modelyard {one.version}), not joined")


async def _elsewhere() -> "list[DiscoveredYard]":
    """Yards on the network that this home neither is nor joined."""
    from modelyard.host import lan
    from modelyard.host.home import yard_of
    from modelyard.host.settings import load

    own = yard_of(load())
    return [one for one in await lan.browse() if one.yard != own]


def row_of(node: "Node", instances: "Iterable[Instance]") -> dict[str, Any]:
    """A node with what instances have reserved of each device: its own, and those that have workers there."""
    living = [one for one in instances if one.state not in ("stopped", "failed")]
    own = [one for one in living if one.node == node.node]
    reserved: dict[str, int] = {}
    for held in (held for one in living for held in one.reserved if (held.node or one.node) == node.node):
        reserved[held.device] = reserved.get(held.device, 0) + held.predicted_bytes
    return {
        "node": node.node,
        "version": node.version,
        "cordoned": node.cordoned,
        "engines": [one.engine for one in node.engines if one.problem is None],
        "devices": [
            {
                "device": one.device,
                "name": one.name,
                "memory_bytes": one.memory_bytes,
                "simulated": one.simulated,
                "reserved_bytes": reserved.get(one.device, 0),
            }
            for one in node.devices
        ],
        "instances": [
            {"instance": one.instance, "model": one.model, "state": one.state}
            for one in sorted(own, key=lambda one: (one.model, one.instance))
        ],
        "workers": [
            {"worker": one.worker, "model": one.model, "instance": one.instance, "device": one.device}
            for one in sorted(node.workers, key=lambda one: (one.model, one.worker))
        ],
    }


def _held(row: dict[str, Any]) -> list[str]:
    """Models that run there, and those of which it holds a part for another node or itself."""
    whole = [each["model"] for each in row["instances"]]
    return whole + [f"a part of {each['model']}" for each in row["workers"]]


def _print(listed: list[dict[str, Any]]) -> None:
    table(
        ("NODE", "STATE", "DEVICE", ">RESERVED", ">FOR MODELS", "ENGINES", "MODELS"),
        [
            (
                row["node"],
                "cordoned" if row["cordoned"] else "ready",
                f"{device['device']} ({device['name']}{', simulated' if device['simulated'] else ''})",
                spell_size(device["reserved_bytes"]),
                spell_size(device["memory_bytes"]),
                ", ".join(row["engines"]),
                ", ".join(_held(row)) or "-",
            )
            for row in listed
            for device in row["devices"]
        ],
    )


async def _cordon(yard: "Client", arguments: argparse.Namespace) -> None:
    from schemas.placing import Cordon

    await yard.cordon(arguments.node, Cordon(cordoned=arguments.cordoned, drain=arguments.drain))
    if arguments.json:
        emit({"node": arguments.node, "cordoned": arguments.cordoned, "drain": arguments.drain})
    elif arguments.drain:
        say(f"{arguments.node} takes no new starts and lets go of what runs there.")
    else:
        say(f"{arguments.node} takes {'no new starts' if arguments.cordoned else 'starts again'}.")
