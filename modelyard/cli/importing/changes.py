"""The changes that make a registry equal to a file."""

from collections.abc import Iterable
from typing import NamedTuple

from modelyard.client.commands import put_model
from modelyard.documents import differences
from schemas.models import ModelSpec
from schemas.registry import ApplyModels, DeleteModel, ModelRecord


class RegistryChanges(NamedTuple):
    """New, changed and deleted models."""

    added: tuple[ModelSpec, ...]
    changed: tuple[tuple[ModelRecord, ModelSpec], ...]
    removed: tuple[ModelRecord, ...]

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)

    def request(self, *, force: bool, dry_run: bool) -> ApplyModels:
        """The command that applies them; refused if one of the models has been changed since."""
        puts = [put_model(spec, 0) for spec in self.added]
        puts += [put_model(spec, record.revision) for record, spec in self.changed]
        deletes = (
            DeleteModel(model=record.spec.name, force=force, revision=record.revision)
            for record in self.removed
        )
        return ApplyModels(models=tuple(puts), delete=tuple(deletes), dry_run=dry_run)

    def lines(self) -> list[str]:
        """For people: `+` is new, `~` changed, `-` deleted."""
        lines = [f"+ {spec.name}  {spec.path}" for spec in self.added]
        for record, spec in self.changed:
            lines.append(f"~ {spec.name}")
            lines += [f"    {difference}" for difference in differences(record.spec, spec)]
        return [*lines, *(f"- {record.spec.name}" for record in self.removed)]


def registry_changes(
    records: Iterable[ModelRecord], specs: Iterable[ModelSpec], *, prune: bool
) -> RegistryChanges:
    """The changes from `records` to `specs`; with `prune`, models that are not among `specs` are deleted."""
    current = {record.spec.name: record for record in records}
    wanted = {spec.name: spec for spec in specs}
    both = [(current[name], spec) for name, spec in wanted.items() if name in current]
    return RegistryChanges(
        added=tuple(spec for name, spec in wanted.items() if name not in current),
        changed=tuple((record, spec) for record, spec in both if record.spec != spec),
        removed=tuple(record for name, record in current.items() if prune and name not in wanted),
    )
