"""`yard list`."""

import argparse
from typing import TYPE_CHECKING, Any

from modelyard.cli.output import emit, say, table
from modelyard.cli.text import spell_size
from modelyard.cli.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelyard.client import Client
    from schemas.downloads import Download
    from schemas.instances import Instance

_PRECEDENCE = ("ready", "probing", "loading", "starting", "draining", "stopping", "failed", "stopped")
"""What a model with several instances is said to be: the first of these that one of them is."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("list", "List the models of the yard.", _list, json="a JSON list")
    parser.epilog = "A model is started by its first request; `yard start` does it beforehand."


async def _list(yard: "Client", arguments: argparse.Namespace) -> None:
    import msgspec

    models, instances, downloads = await yard.models(), await yard.instances(), await yard.downloads()
    listed: list[dict[str, Any]] = [
        {
            **msgspec.to_builtins(spec),
            "state": state_of(spec.name, instances.values()),
            "size_bytes": size_of(spec.name, downloads.values()),
        }
        for spec in sorted(models.values(), key=lambda spec: spec.name)
    ]
    if arguments.json:
        emit(listed)
    elif not listed:
        say("There are no models yet. Fetch one: yard pull REPO:QUANT")
    else:
        table(
            ("MODEL", "MODE", "STATE", ">SIZE", "ALIASES"),
            [
                (
                    model["name"],
                    model["mode"],
                    model["state"],
                    spell_size(model["size_bytes"]),
                    ", ".join(model["aliases"]),
                )
                for model in listed
            ],
        )


def state_of(model: str, instances: "Iterable[Instance]") -> str:
    """The most telling state among the model's instances; `stopped` without any."""
    states = [str(each.state) for each in instances if each.model == model]
    return min(states, key=_PRECEDENCE.index, default="stopped")


def size_of(model: str, downloads: "Iterable[Download]") -> int | None:
    """What the newest finished download of the model brought; None for models that came otherwise."""
    finished = [each for each in downloads if each.model == model and each.state == "finished"]
    return max(finished, key=lambda each: each.changed_at).bytes_total if finished else None
