"""`yard nodes`, `cordon`, `uncordon` and `drain`: the machines of the yard."""

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from modelyard.cli.output import print_json, print_line, print_result, table
from modelyard.cli.parser import VerbParser
from modelyard.cli.verbs import online
from modelyard.client import Client
from modelyard.host import lan
from modelyard.host.home import yard_of
from modelyard.host.settings import load
from modelyard.text import format_age, format_size
from schemas.instances import Instance, Node
from schemas.placing import Cordon

_NODES = """
Memory is what models may use and what is reserved for them; `elsewhere` lists yards on the local network
that this home does not belong to.
"""
_CORDONS = {
    "cordon": (Cordon(), "{} takes no new starts."),
    "uncordon": (Cordon(cordoned=False), "{} takes starts again."),
    "drain": (Cordon(drain=True), "{} takes no new starts and drains its instances."),
}


def register(verbs: Mapping[str, VerbParser]) -> None:
    nodes = verbs["nodes"]
    nodes.describe(_NODES)
    nodes.add_argument("--no-look", action="store_true", help="do not search the local network")
    online(nodes, _nodes)
    for verb, (command, sentence) in _CORDONS.items():
        verbs[verb].add_argument("node", metavar="NODE", help="its name, as `yard nodes` shows it")
        online(verbs[verb], partial(_cordon, command, sentence))


async def _nodes(yard: Client, arguments: argparse.Namespace) -> None:
    nodes, instances = await yard.nodes(), await yard.instances()
    left = sorted((await yard.departures()).values(), key=lambda departure: departure.at)
    own = yard_of(load())
    others = [] if arguments.no_look else [other for other in await lan.browse() if other.yard != own]
    rows = [row_of(node, instances.values()) for _, node in sorted(nodes.items())]
    if arguments.json:
        print_json({"nodes": rows, "left": left, "elsewhere": others})
        return
    _print_nodes(rows)
    for departure in left:
        print_line(f"\n{departure.node} left {format_age(departure.at)} ago.")
    for other in others:
        print_line(
            f"\nelsewhere: {other.node}, a yard at {other.nats_url} (modelyard {other.version}), not joined"
        )


def row_of(node: Node, instances: Iterable[Instance]) -> dict[str, Any]:
    """A node with the memory of each device that is reserved for instances and for workers of other nodes."""
    live = [instance for instance in instances if instance.state not in ("stopped", "failed")]
    own = [instance for instance in live if instance.node == node.node]
    reserved: dict[str, int] = {}
    for instance in live:
        for use in instance.reserved:
            if (use.node or instance.node) == node.node:
                reserved[use.device] = reserved.get(use.device, 0) + use.predicted_bytes
    return {
        "node": node.node,
        "version": node.version,
        "cordoned": node.cordoned,
        "engines": [engine.engine for engine in node.engines if engine.problem is None],
        "devices": [
            {
                "device": device.device,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "simulated": device.simulated,
                "reserved_bytes": reserved.get(device.device, 0),
            }
            for device in node.devices
        ],
        "instances": [
            {"instance": instance.instance, "model": instance.model, "state": instance.state}
            for instance in sorted(own, key=lambda instance: (instance.model, instance.instance))
        ],
        "workers": [
            {
                "worker": worker.worker,
                "model": worker.model,
                "instance": worker.instance,
                "device": worker.device,
            }
            for worker in sorted(node.workers, key=lambda worker: (worker.model, worker.worker))
        ],
    }


def _models(row: dict[str, Any]) -> str:
    """Models that run there, and those of which it has a part."""
    whole = [instance["model"] for instance in row["instances"]]
    return ", ".join([*whole, *(f"a part of {worker['model']}" for worker in row["workers"])])


def _print_nodes(rows: list[dict[str, Any]]) -> None:
    table(
        ("NODE", "STATE", "DEVICE", ">RESERVED", ">FOR MODELS", "ENGINES", "MODELS"),
        [
            (
                row["node"],
                "cordoned" if row["cordoned"] else "ready",
                f"{device['device']} ({device['name']}{', simulated' if device['simulated'] else ''})",
                format_size(device["reserved_bytes"]),
                format_size(device["memory_bytes"]),
                ", ".join(row["engines"]),
                _models(row) or "-",
            )
            for row in rows
            for device in row["devices"]
        ],
    )


async def _cordon(command: Cordon, sentence: str, yard: Client, arguments: argparse.Namespace) -> None:
    node = arguments.node
    await yard.cordon(node, command)
    done = {"node": node, "cordoned": command.cordoned, "drain": command.drain}
    print_result(arguments, done, sentence.format(node))
