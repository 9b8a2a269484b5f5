"""A registry as a TOML file: one `[[model]]` table a model; and the changes that lead to it."""

import tomllib
from collections.abc import Iterable
from typing import Any, NamedTuple

import tomli_w

from modelyard.client.commands import put_model
from modelyard.documents import differences, spec_from, without_defaults
from schemas.errors import BadRequest
from schemas.models import ModelSpec
from schemas.registry import ApplyModels, DeleteModel, ModelRecord

_TABLE = "model"


def read_toml(text: str) -> list[ModelSpec]:
    """Every model of the file; BadRequest that names the wrong place."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"The file is not TOML: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The file is not TOML that can be understood: it is nested too deeply.") from error
    if (other := next((name for name in document if name != _TABLE), None)) is not None:
        raise BadRequest(f"The file has {other!r}; it takes nothing but [[{_TABLE}]] tables.")
    tables = document.get(_TABLE, [])
    if not isinstance(tables, list):
        raise BadRequest(f"Write [[{_TABLE}]] with two brackets: there may be several.")
    specs = [_read_table(number, table) for number, table in enumerate(tables, 1)]
    names = [spec.name for spec in specs]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise BadRequest(f"The file has two models called {twice!r}.", param="name")
    return specs


def _read_table(number: int, table: Any) -> ModelSpec:
    if not isinstance(table, dict):
        raise BadRequest(f"Model {number} of the file is not a table.")
    try:
        return spec_from(table)
    except BadRequest as error:
        name = table.get("name", "without a name")
        raise BadRequest(f"Model {number} of the file ({name}): {error.message}", param=error.param) from None


def write_toml(specs: Iterable[ModelSpec]) -> str:
    """The file that `read_toml` reads as the same models; fields with their default are left out."""
    return "\n".join(_write_table(spec) for spec in sorted(specs, key=lambda spec: spec.name))


def _write_table(spec: ModelSpec) -> str:
    try:
        text = tomli_w.dumps({_TABLE: without_defaults(spec)})
    except TypeError as error:
        raise BadRequest(f"{spec.name} cannot be written as TOML, which has no null: {error}.") from error
    # The library would write a short table of a list on one line.
    return text.replace(f"[{_TABLE}]", f"[[{_TABLE}]]", 1)


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
    target = {spec.name: spec for spec in specs}
    both = [(current[name], spec) for name, spec in target.items() if name in current]
    return RegistryChanges(
        added=tuple(spec for name, spec in target.items() if name not in current),
        changed=tuple((record, spec) for record, spec in both if record.spec != spec),
        removed=tuple(record for name, record in current.items() if prune and name not in target),
    )
