"""Which sums are kept, and which of them answer a question with the fewest rows. Pure."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from services.monitor.usage.levels import BLOCK_DAYS, HOUR_QUARTERS, WIDEST_FIRST, Unit
from services.monitor.usage.series import Series

ALL = Series._fields


class Rollup(NamedTuple):
    """A table of sums: by a unit of time, and by those fields of series that are told apart in it.

    A row's series is one in which all other fields are empty.
    """

    table: str
    unit: Unit
    fields: tuple[str, ...]
    base: str
    """The table that it is made anew from: each row of it goes into one row here."""

    @property
    def width(self) -> int:
        """How many units of the base are one unit here."""
        return {Unit.HOUR: HOUR_QUARTERS, Unit.BLOCK: BLOCK_DAYS}.get(self.unit, 1)

    @property
    def base_unit(self) -> Unit:
        """The unit of the base."""
        return Unit.QUARTER if self.unit in (Unit.QUARTER, Unit.HOUR) else Unit.DAY


QUARTERS = Rollup("quarters", Unit.QUARTER, ALL, "requests")
DAYS = Rollup("days", Unit.DAY, ALL, "requests")
DERIVED = (
    Rollup("model_hours", Unit.HOUR, ("model",), "quarters"),
    Rollup("model_days", Unit.DAY, ("model",), "days"),
    Rollup("blocks", Unit.BLOCK, ALL, "days"),
)
"""Sums of sums, those with the fewest rows first."""
SUMS = (*DERIVED, QUARTERS, DAYS)
LATENCIES = Rollup("latencies", Unit.DAY, ALL, "requests")
DERIVED_LATENCIES = (
    Rollup("model_latencies", Unit.DAY, ("model",), "latencies"),
    Rollup("model_block_latencies", Unit.BLOCK, ("model",), "latencies"),
)
LATENCY = (*DERIVED_LATENCIES, LATENCIES)


def chosen(rollups: Iterable[Rollup], needed: Collection[str]) -> list[Rollup]:
    """For each unit of time the smallest that tells apart what is needed, the widest unit first."""
    by_unit: dict[Unit, Rollup] = {}
    for rollup in rollups:
        if set(needed) <= set(rollup.fields):
            by_unit.setdefault(rollup.unit, rollup)
    return [by_unit[unit] for unit in WIDEST_FIRST if unit in by_unit]
