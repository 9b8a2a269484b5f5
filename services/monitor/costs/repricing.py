"""Repricing: recomputes the cost of stored usage, batch by batch, each in one transaction with its sums."""

import time
from decimal import Decimal
from typing import NamedTuple

from schemas.errors import BadRequest
from schemas.prices import DEFAULT, Reprice, Repriced, spell_money
from schemas.subjects import REQUEST_FINISHED
from services.monitor.costs.pricing import EXACT, from_amount, time_cost, to_amount
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.rollup_batch import RollupBatch
from services.monitor.usage.rollups import END
from services.monitor.usage.store import UsageStore

_BATCH = 5000
_SELECT_REQUESTS = """
SELECT requests.rowid, quarter, day, series, cost_whole, cost_pico, record, finished_at, request FROM requests
JOIN series USING (series)
WHERE finished_at >= ? AND finished_at < ? AND (finished_at, request) > (?, ?) AND (? IS NULL OR model = ?)
ORDER BY finished_at, request LIMIT ?
"""
_SELECT_CHARGES = """
SELECT quarter, day, series, cost_whole, cost_pico, at, loaded_ms, energy_mwh, model FROM charges
JOIN series USING (series) WHERE at >= ? AND at < ? AND (? IS NULL OR model = ?)
"""


class _BatchResult(NamedTuple):
    changed: int
    before: Decimal
    after: Decimal
    next: tuple[float, str] | None
    """The cursor of the next batch; None after the last."""


async def reprice(usage: UsageDatabase, command: Reprice) -> Repriced:
    """Answer `price.reprice`. Usage that is stored as sums alone keeps its cost."""
    until = time.time() if command.until is None else command.until
    if not 0 <= command.since < until <= END:
        raise BadRequest("`since` must be a time before `until`, in unix seconds.", param="since")
    model = None if command.model in (None, DEFAULT) else command.model
    changed, before, after = 0, Decimal(0), Decimal(0)
    cursor: tuple[float, str] | None = (-1.0, "")
    while cursor is not None:
        batch = await usage.write(_reprice_requests, command.since, until, cursor, model)
        changed += batch.changed
        before, after = EXACT.add(before, batch.before), EXACT.add(after, batch.after)
        cursor = batch.next
    charges = await usage.write(_reprice_charges, command.since, until, model)
    await usage.notify_recount()
    return Repriced(
        records=changed + charges.changed,
        before=spell_money(EXACT.add(before, charges.before)),
        after=spell_money(EXACT.add(after, charges.after)),
    )


def _reprice_requests(
    store: UsageStore, since: float, until: float, after: tuple[float, str], model: str | None
) -> _BatchResult:
    with store.transaction():
        rows = store.db.execute(_SELECT_REQUESTS, (since, until, *after, model, model, _BATCH)).fetchall()
        changed, before, now, batch = 0, Decimal(0), Decimal(0), RollupBatch(store.series)
        price_book = store.price_book
        for rowid, quarter, day, series, whole, pico, record, _at, _request in rows:
            old, new = from_amount(whole, pico), price_book.cost(REQUEST_FINISHED.decode(record.encode()))
            before, now = EXACT.add(before, old), EXACT.add(now, new)
            if to_amount(new) != (whole, pico):
                changed += 1
                store.db.execute(
                    "UPDATE requests SET cost_whole = ?, cost_pico = ? WHERE rowid = ?",
                    (*to_amount(new), rowid),
                )
                _add_difference(batch, quarter, day, series, EXACT.subtract(new, old))
        batch.write(store.db)
    last = (rows[-1][7], rows[-1][8]) if len(rows) == _BATCH else None
    return _BatchResult(changed, before, now, last)


def _reprice_charges(store: UsageStore, since: float, until: float, model: str | None) -> _BatchResult:
    with store.transaction():
        changed, before, now, batch = 0, Decimal(0), Decimal(0), RollupBatch(store.series)
        for row in store.db.execute(_SELECT_CHARGES, (since, until, model, model)).fetchall():
            quarter, day, series, whole, pico, at, loaded_ms, energy_mwh, name = row
            old = from_amount(whole, pico)
            new = time_cost(store.price_book.price(name, at), loaded_ms, energy_mwh)
            before, now = EXACT.add(before, old), EXACT.add(now, new)
            if to_amount(new) != (whole, pico):
                changed += 1
                store.db.execute(
                    "UPDATE charges SET cost_whole = ?, cost_pico = ? WHERE quarter = ? AND series = ?",
                    (*to_amount(new), quarter, series),
                )
                difference = EXACT.subtract(from_amount(*to_amount(new)), old)
                _add_difference(batch, quarter, day, series, difference)
        batch.write(store.db)
    return _BatchResult(changed, before, now, None)


def _add_difference(batch: RollupBatch, quarter: int, day: int, series: int, difference: Decimal) -> None:
    batch.add(quarter, day, series, (0, 0, 0, 0, 0, 0, *to_amount(difference)))
