"""What it takes to make a registry look like a file."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from modelyard.specs.documents import Difference, differences
from schemas.models import ModelSpec
from schemas.registry import ApplyModels, DeleteModel, ModelRecord, PutModel


class Proposal(NamedTuple):
    """What is new, what changes, and what goes."""

    added: tuple[ModelSpec, ...]
    changed: tuple[tuple[ModelRecord, ModelSpec], ...]
    removed: tuple[ModelRecord, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def request(self, *, force: bool, dry_run: bool) -> ApplyModels:
        """The command that does it, refused if anybody changes one of the models meanwhile."""
        puts = [(spec, 0) for spec in self.added]
        puts += [(spec, record.revision) for record, spec in self.changed]
        return ApplyModels(
            models=tuple(PutModel(**msgspec.structs.asdict(spec), revision=last) for spec, last in puts),
            delete=tuple(
                DeleteModel(model=record.spec.name, force=force, revision=record.revision)
                for record in self.removed
            ),
            dry_run=dry_run,
        )


def propose(records: Iterable[ModelRecord], specs: Iterable[ModelSpec], *, prune: bool) -> Proposal:
    """From what there is to `specs`; with `prune`, models that are not among them go."""
    there = {record.spec.name: record for record in records}
    wanted = {spec.name: spec for spec in specs}
    both = [(there[name], spec) for name, spec in wanted.items() if name in there]
    return Proposal(
        added=tuple(spec for name, spec in wanted.items() if name not in there),
        changed=tuple((record, spec) for record, spec in both if record.spec != spec),
        removed=tuple(record for name, record in there.items() if prune and name not in wanted),
    )


def lines(proposal: Proposal) -> list[str]:
    """For people: `+` is new, `~` changes, `-` goes."""
    told = []
    for spec in proposal.added:
        told.append(f"+ {spec.name}  {spec.path}")
    for record, spec in proposal.changed:
        told.append(f"~ {spec.name}")
        told += [f"    {line(each)}" for each in differences(record.spec, spec)]
    return [*told, *(f"- {record.spec.name}" for record in proposal.removed)]


def line(difference: Difference) -> str:
    """One field, before and after."""
    return f"{difference.field}: {_json(difference.old)} -> {_json(difference.new)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
