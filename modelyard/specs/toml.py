"""A registry as a TOML file: one `[[model]]` table a model."""

import tomllib
from collections.abc import Iterable
from typing import Any

import tomli_w

from modelyard.specs.checked import spec_from
from modelyard.specs.documents import brief
from schemas.errors import BadRequest
from schemas.models import ModelSpec

_TABLE = "model"


def read_toml(text: str) -> list[ModelSpec]:
    """Every model of the file; BadRequest with the place that is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"The file is not TOML: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The file is not TOML that can be understood: it is nested too deeply.") from error
    if (strange := next((name for name in document if name != _TABLE), None)) is not None:
        raise BadRequest(f"The file has {strange!r}; it takes nothing but [[{_TABLE}]] tables.")
    tables = document.get(_TABLE, [])
    if not isinstance(tables, list):
        raise BadRequest(f"Write [[{_TABLE}]] with two brackets: there may be several.")
    specs = [_spec(number, table) for number, table in enumerate(tables, 1)]
    _check_once([spec.name for spec in specs])
    return specs


def _spec(number: int, table: Any) -> ModelSpec:
    if not isinstance(table, dict):
        raise BadRequest(f"Model {number} of the file is no table.")
    try:
        return spec_from(table)
    except BadRequest as error:
        name = table.get("name", "without a name")
        raise BadRequest(f"Model {number} of the file ({name}): {error.message}", param=error.param) from None


def _check_once(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadRequest(f"The file has two models called {twice!r}.", param="name")


def write_toml(specs: Iterable[ModelSpec]) -> str:
    """The file that `read_toml` reads as the same models; what is as by default is left out."""
    return "\n".join(_table(spec) for spec in sorted(specs, key=lambda spec: spec.name))


def _table(spec: ModelSpec) -> str:
    try:
        text = tomli_w.dumps({_TABLE: brief(spec)})
    except TypeError as error:
        raise BadRequest(f"{spec.name} cannot be said in TOML, which has no null: {error}.") from error
    # The library would squeeze a short table of a list into one line.
    return text.replace(f"[{_TABLE}]", f"[[{_TABLE}]]", 1)
