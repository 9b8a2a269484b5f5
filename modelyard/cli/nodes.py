"""`yard nodes`, `cordon`, `uncordon`, `drain`, `devices` and `top`: machines and their devices."""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from modelyard.cli.arguments import parse_duration
from modelyard.cli.output import print_json, print_line, print_result
from modelyard.cli.parser import VerbParser
from modelyard.cli.tables import Column, cells, make_table, print_rows, screen, table
from modelyard.cli.verbs import online
from modelyard.client import Client
from modelyard.host import lan
from modelyard.host.home import yard_of
from modelyard.host.settings import load
from modelyard.text import format_age, format_duration, format_size, printable
from schemas.devices import Device
from schemas.errors import YardError
from schemas.instances import LIVE, Instance, Node
from schemas.metrics import Sample
from schemas.placement import Cordon

_NODES = """
Memory is what models may use and what is reserved for them; `other_yards` lists yards on the local network
that this home does not belong to.
"""
_CORDONS = {
    "cordon": (Cordon(), "{} takes no new starts."),
    "uncordon": (Cordon(cordoned=False), "{} takes starts again."),
    "drain": (Cordon(drain=True), "{} takes no new starts and drains its instances."),
}
_NODE_HEADER = ("NODE", "STATE", "DEVICE", ">RESERVED", ">FOR MODELS", "ENGINES", "MODELS")
_FIRST_TOKEN = "yard_request_first_token_quantile_seconds"  # noqa: S105 - the name of a metric
_METRICS = (
    "yard_instance_prompt_tokens_per_second",
    "yard_instance_completion_tokens_per_second",
    "yard_instance_prompt_cache_hit_ratio",
    "yard_instance_kv_used_ratio",
    "yard_model_queue",
    "yard_request_duration_quantile_seconds",
    _FIRST_TOKEN,
)
_INTERVAL_S = 1.0
_WHOLE_SECONDS_FROM = 10


def register(verbs: Mapping[str, VerbParser]) -> None:
    nodes = verbs["nodes"]
    nodes.describe(_NODES)
    nodes.flag("--no-look", text="do not search the local network")
    online(nodes, _nodes)
    for verb, (command, sentence) in _CORDONS.items():
        verbs[verb].add_argument("node")
        online(verbs[verb], partial(_cordon, command, sentence))
    verbs["devices"].add_argument("--node", help="only those of this node")
    online(verbs["devices"], _devices)
    top = verbs["top"]
    every = "interval (default: 1s)"
    top.add_argument("--every", type=parse_duration, default=_INTERVAL_S, metavar="TIME", help=every)
    top.flag("--once", text="print once and exit")
    online(top, _top, json="one JSON document an interval")


async def _nodes(yard: Client, arguments: argparse.Namespace) -> None:
    nodes, instances = await yard.nodes(), await yard.instances()
    departures = sorted((await yard.departures()).values(), key=attrgetter("at"))
    own = yard_of(load())
    others = [] if arguments.no_look else [other for other in await lan.browse() if other.yard != own]
    rows = [row_of(node, instances.values()) for _, node in sorted(nodes.items())]
    if arguments.json:
        print_json({"nodes": rows, "left": departures, "other_yards": others})
        return
    table(_NODE_HEADER, [_node_row(row, device) for row in rows for device in row["devices"]])
    for departure in departures:
        print_line(f"\n{departure.node} left {format_age(departure.at)} ago.")
    for other in others:
        address = f"{other.nats_url} (modelyard {other.version})"
        print_line(f"\nother yard: {other.node} at {address}, not joined")


def row_of(node: Node, instances: Iterable[Instance]) -> dict[str, Any]:
    """A node with the memory of each device that is reserved for instances and for workers of other nodes."""
    live = [instance for instance in instances if instance.state not in ("stopped", "failed")]
    own = [instance for instance in live if instance.node == node.node]
    reserved: dict[str, int] = {}
    for instance in live:
        for use in instance.reserved:
            if (use.node or instance.node) == node.node:
                reserved[use.device] = reserved.get(use.device, 0) + use.predicted_bytes
    device_fields = ("device", "name", "memory_bytes", "simulated")
    return {
        **_fields(node, "node", "version", "cordoned"),
        "engines": [engine.engine for engine in node.engines if engine.problem is None],
        "devices": [
            {**_fields(device, *device_fields), "reserved_bytes": reserved.get(device.device, 0)}
            for device in node.devices
        ],
        "instances": [
            _fields(instance, "instance", "model", "state")
            for instance in sorted(own, key=attrgetter("model", "instance"))
        ],
        "workers": [
            _fields(worker, "worker", "model", "instance", "device")
            for worker in sorted(node.workers, key=attrgetter("model", "worker"))
        ],
    }


def _fields(record: object, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _node_row(row: dict[str, Any], device: dict[str, Any]) -> tuple[str, ...]:
    models = [instance["model"] for instance in row["instances"]]
    models += [f"a part of {worker['model']}" for worker in row["workers"]]
    return (
        row["node"],
        "cordoned" if row["cordoned"] else "ready",
        f"{device['device']} ({device['name']}{', simulated' if device['simulated'] else ''})",
        *(format_size(device["reserved_bytes"]), format_size(device["memory_bytes"])),
        *(", ".join(row["engines"]), ", ".join(models) or "-"),
    )


async def _cordon(command: Cordon, sentence: str, yard: Client, arguments: argparse.Namespace) -> None:
    await yard.cordon(arguments.node, command)
    done = {"node": arguments.node, **msgspec.structs.asdict(command)}
    print_result(arguments, done, sentence.format(arguments.node))


async def _devices(yard: Client, arguments: argparse.Namespace) -> None:
    node = arguments.node
    devices = [device for device in in_order((await yard.devices()).values()) if node in (None, device.node)]
    adapters = [adapter for adapter in (await yard.adapters()).values() if node in (None, adapter.node)]
    if arguments.json:
        print_json({"devices": devices, "adapters": adapters})
        return
    if devices:
        print_rows(_device_columns((await yard.instances()).values()), devices)
    else:
        print_line("No device has reported yet; does the monitor run?")
    for adapter in adapters:
        if adapter.problem:
            print_line(f"\n{adapter.node}: the adapter {adapter.adapter} gives no devices: {adapter.problem}")


def in_order(devices: Iterable[Device]) -> list[Device]:
    """Graphics cards before processors, node by node."""
    return sorted(devices, key=lambda device: (device.node, device.kind == "cpu", device.name, device.device))


def _device_columns(instances: Iterable[Instance]) -> dict[str, Column]:
    models = {instance.instance: instance.model for instance in instances}

    def users(device: Device) -> str:
        ids = {process.instance for process in device.processes if process.instance}
        return ", ".join(sorted({models.get(instance, instance) for instance in ids})) or "-"

    return {
        "NODE": "node",
        "DEVICE": "device",
        "NAME": lambda device: (
            device.name
            + (" (simulated)" if device.simulated else "")
            + (" (in parts)" if device.partitioned else "")
        ),
        ">MEMORY": lambda device: format_size(device.memory_used_bytes),
        ">OF": lambda device: format_size(device.memory_total_bytes),
        ">BUSY": lambda device: _reading(device.utilization_pct, "%"),
        ">TEMP": lambda device: _reading(device.temperature_c, "°C"),
        ">POWER": lambda device: (
            _reading(device.power_w, "W") + (f"/{device.power_limit_w:.0f}" if device.power_limit_w else "")
        ),
        ">CLOCK": lambda device: _reading(device.clock_mhz, "MHz") + ("!" if device.throttled_by else ""),
        "USED BY": users,
    }


def _reading(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f} {unit}"


async def _top(yard: Client, arguments: argparse.Namespace) -> None:
    once = arguments.once or not (sys.stdout.isatty() or arguments.json)
    live = None if once or arguments.json else Live(console=screen(), screen=True, auto_refresh=False)
    with live or nullcontext():
        while True:
            devices, instances, samples = await _read_state(yard)
            if arguments.json:
                print_json({"devices": devices, "instances": instances, "samples": samples})
            elif live is not None:
                live.update(_render(devices, instances, samples), refresh=True)
            else:
                screen().print(_render(devices, instances, samples))
            if once:
                return
            await asyncio.sleep(arguments.every)


async def _read_state(yard: Client) -> tuple[list[Device], list[Instance], Sequence[Sample]]:
    """Devices, live instances and metrics; without a monitor there are no metrics."""
    devices, instances = in_order((await yard.devices()).values()), (await yard.instances()).values()
    try:
        samples: Sequence[Sample] = (await yard.metrics(*_METRICS)).samples
    except YardError:
        samples = ()
    live = [instance for instance in instances if instance.state in LIVE]
    return devices, sorted(live, key=attrgetter("model", "instance")), samples


def _render(devices: list[Device], instances: list[Instance], samples: Sequence[Sample]) -> Group:
    columns, running = _device_columns(instances), _instance_columns(samples)
    instance_table = make_table(tuple(running), cells(running, instances))
    return Group(
        make_table(tuple(columns), cells(columns, devices)),
        instance_table if instances else Text("\n Nothing runs now."),
        Text(_latencies(samples)),
    )


def _instance_columns(samples: Sequence[Sample]) -> dict[str, Column]:
    values = {(sample.labels.get("instance_id"), sample.name): sample.value for sample in samples}

    def metric(name: str, form: str) -> Column:
        def column(instance: Instance) -> str | None:
            value = values.get((instance.instance, f"yard_instance_{name}"))
            return None if value is None else format(value, form)

        return column

    def waiting(instance: Instance) -> str:
        queues = [sample for sample in samples if sample.name == "yard_model_queue"]
        depth = sum(sample.value for sample in queues if sample.labels["model"] == instance.model)
        return f"{max(depth - instance.busy, 0):.0f}"

    return {
        "MODEL": "model",
        "INSTANCE": "instance",
        "NODE": "node",
        "STATE": "state",
        ">BUSY": lambda instance: f"{instance.busy}/{instance.slots}",
        ">IN TOK/S": metric("prompt_tokens_per_second", ".0f"),
        ">OUT TOK/S": metric("completion_tokens_per_second", ".1f"),
        ">CACHE": metric("prompt_cache_hit_ratio", ".0%"),
        ">KV": metric("kv_used_ratio", ".0%"),
        ">WAITING": waiting,
    }


def _latencies(samples: Sequence[Sample]) -> str:
    """A line a model: the durations of its requests in the last five minutes."""
    by_model: dict[str, dict[str, str]] = {}
    for sample in samples:
        if "quantile" in sample.labels:
            kind = "first byte" if sample.name == _FIRST_TOKEN else "whole"
            quantile = f"p{float(sample.labels['quantile']) * 100:.0f}"
            whole = sample.value >= _WHOLE_SECONDS_FROM
            duration = format_duration(sample.value) if whole else f"{sample.value:.2f}s"
            by_model.setdefault(sample.labels["model"], {})[f"{kind} {quantile}"] = duration
    lines = [""]
    for model, quantiles in sorted(by_model.items()):
        lines.append(f" {model}: " + ", ".join(f"{name} {value}" for name, value in quantiles.items()))
    return printable("\n".join(lines))
