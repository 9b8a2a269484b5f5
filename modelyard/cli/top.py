"""`yard top`: devices and instances, live."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from modelyard.cli.devices import HEADER, in_order, row_of
from modelyard.cli.output import emit, screen
from modelyard.cli.text import duration, safe, spell_duration
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group
    from rich.table import Table

    from modelyard.client import Client
    from schemas.devices import Device
    from schemas.instances import Instance
    from schemas.metrics import Sample

_INSTANCES = (
    "MODEL",
    "INSTANCE",
    "NODE",
    "STATE",
    ">BUSY",
    ">IN TOK/S",
    ">OUT TOK/S",
    ">CACHE",
    ">KV",
    ">WAITING",
)
_NAMES = (
    "yard_instance_prompt_tokens_per_second",
    "yard_instance_completion_tokens_per_second",
    "yard_instance_prompt_cache_hit_ratio",
    "yard_instance_kv_used_ratio",
    "yard_model_queue",
    "yard_request_duration_quantile_seconds",
)
_FIRST_TOKEN, _OFTEN_S = "yard_request_first_token_quantile_seconds", 1.0


def register(verbs: Verbs) -> None:
    parser = verbs.add(
        "top", "Show devices and instances, live; Ctrl-C ends it.", _top, json="one JSON document a look"
    )
    parser.add_argument(
        "--every", type=duration, default=_OFTEN_S, metavar="TIME", help="how often (default: 1s)"
    )
    parser.add_argument("--once", action="store_true", help="look once and end")


async def _top(yard: "Client", arguments: argparse.Namespace) -> None:
    once = arguments.once or not (sys.stdout.isatty() or arguments.json)
    if arguments.json:
        await _emit(yard, arguments.every, once=once)
        return
    from rich.live import Live

    console = screen()
    if once:
        console.print(await _look(yard))
        return
    with Live(await _look(yard), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(arguments.every)
            live.update(await _look(yard), refresh=True)


async def _emit(yard: "Client", every_s: float, *, once: bool) -> None:
    while True:
        devices, instances, samples = await _asked(yard)
        emit({"devices": devices, "instances": instances, "samples": samples})
        if once:
            return
        await asyncio.sleep(every_s)


async def _asked(yard: "Client") -> "tuple[list[Device], list[Instance], Sequence[Sample]]":
    """What there is; samples are missing while the monitor is away."""
    from schemas.errors import YardError
    from schemas.instances import LIVE

    devices, instances = in_order((await yard.devices()).values()), (await yard.instances()).values()
    try:
        samples: Sequence[Sample] = (await yard.metrics(*_NAMES, _FIRST_TOKEN)).samples
    except YardError:
        samples = ()
    live = sorted((one for one in instances if one.state in LIVE), key=lambda one: (one.model, one.instance))
    return devices, live, samples


async def _look(yard: "Client") -> "Group":
    from rich.console import Group
    from rich.text import Text

    devices, instances, samples = await _asked(yard)
    models = {one.instance: one.model for one in instances}
    return Group(
        _table(HEADER, [row_of(one, models) for one in devices]),
        _table(_INSTANCES, [_row(one, samples) for one in instances])
        if instances
        else Text("\n Nothing runs now."),
        Text(_latencies(samples)),
    )


def _row(instance: "Instance", samples: "Sequence[Sample]") -> tuple[str, ...]:
    own = {one.name: one.value for one in samples if one.labels.get("instance_id") == instance.instance}
    lanes = [
        one.value
        for one in samples
        if one.name == "yard_model_queue" and one.labels["model"] == instance.model
    ]

    def told(name: str, form: str) -> str:
        value = own.get(f"yard_instance_{name}")
        return "-" if value is None else format(value, form)

    return (
        instance.model,
        instance.instance,
        instance.node,
        instance.state,
        f"{instance.busy}/{instance.slots}",
        told("prompt_tokens_per_second", ".0f"),
        told("completion_tokens_per_second", ".1f"),
        told("prompt_cache_hit_ratio", ".0%"),
        told("kv_used_ratio", ".0%"),
        f"{max(sum(lanes) - instance.busy, 0):.0f}",
    )


def _latencies(samples: "Sequence[Sample]") -> str:
    """A line a model: what the requests of the last five minutes took."""
    told: dict[str, dict[str, str]] = {}
    for one in samples:
        if "quantile" in one.labels:
            what = "first byte" if one.name == _FIRST_TOKEN else "whole"
            share = f"p{float(one.labels['quantile']) * 100:.0f}"
            spelled = spell_duration(one.value) if one.value >= 10 else f"{one.value:.2f}s"
            told.setdefault(one.labels["model"], {})[f"{what} {share}"] = spelled
    lines = [
        f" {model}: " + ", ".join(f"{what} {took}" for what, took in quantiles.items())
        for model, quantiles in sorted(told.items())
    ]
    return safe("\n".join(["", *lines]))


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> "Table":
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in header:
        grid.add_column(
            title.removeprefix(">"), justify="right" if title.startswith(">") else "left", no_wrap=True
        )
    for row in rows:
        grid.add_row(*map(safe, row))
    return grid
