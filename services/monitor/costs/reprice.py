"""The past at the prices of now: a part at a time, each in one transaction with the sums it changes."""

import time
from decimal import Decimal
from typing import NamedTuple

from schemas.errors import BadRequest
from schemas.prices import DEFAULT, Reprice, Repriced, spell_money
from schemas.subjects import REQUEST_FINISHED
from services.monitor.costs.money import EXACT, from_amount, to_amount
from services.monitor.costs.pricing import time_cost
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.levels import END
from services.monitor.usage.store import UsageStore
from services.monitor.usage.tally import Tally

_BATCH = 5000
_PAGE = """
SELECT requests.rowid, quarter, day, series, cost_whole, cost_pico, record, finished_at, request FROM requests
JOIN series USING (series)
WHERE finished_at >= ? AND finished_at < ? AND (finished_at, request) > (?, ?) AND (? IS NULL OR model = ?)
ORDER BY finished_at, request LIMIT ?
"""
_CHARGES = """
SELECT quarter, day, series, cost_whole, cost_pico, at, loaded_ms, energy_mwh, model FROM charges
JOIN series USING (series) WHERE at >= ? AND at < ? AND (? IS NULL OR model = ?)
"""


class _Part(NamedTuple):
    """What one batch came to, and where the next begins; `after` None: that was all."""

    changed: int
    before: Decimal
    after_cost: Decimal
    after: tuple[float, str] | None


async def reprice(keeper: UsageKeeper, asked: Reprice) -> Repriced:
    """Answer `price.reprice`. What is kept as sums alone keeps its cost."""
    until = time.time() if asked.until is None else asked.until
    if not 0 <= asked.since < until <= END:
        raise BadRequest("`since` must be a time before `until`, in unix seconds.", param="since")
    model = None if asked.model in (None, DEFAULT) else asked.model
    records, before, after = 0, Decimal(0), Decimal(0)
    cursor: tuple[float, str] | None = (-1.0, "")
    while cursor is not None:
        part = await keeper.write(_requests, asked.since, until, cursor, model)
        records += part.changed
        before, after = EXACT.add(before, part.before), EXACT.add(after, part.after_cost)
        cursor = part.after
    charges = await keeper.write(_charges, asked.since, until, model)
    await keeper.tell_recounted()
    return Repriced(
        records=records + charges.changed,
        before=spell_money(EXACT.add(before, charges.before)),
        after=spell_money(EXACT.add(after, charges.after_cost)),
    )


def _requests(
    store: UsageStore, since: float, until: float, after: tuple[float, str], model: str | None
) -> _Part:
    with store.transaction():
        rows = store.db.execute(_PAGE, (since, until, *after, model, model, _BATCH)).fetchall()
        changed, before, now, tally = 0, Decimal(0), Decimal(0), Tally(store.series)
        book = store.book
        for rowid, quarter, day, series, whole, pico, record, _at, _request in rows:
            old, new = from_amount(whole, pico), book.cost(REQUEST_FINISHED.decode(record.encode()))
            before, now = EXACT.add(before, old), EXACT.add(now, new)
            if to_amount(new) != (whole, pico):
                changed += 1
                store.db.execute(
                    "UPDATE requests SET cost_whole = ?, cost_pico = ? WHERE rowid = ?",
                    (*to_amount(new), rowid),
                )
                _correct(tally, quarter, day, series, EXACT.subtract(new, old))
        tally.write(store.db)
    last = (rows[-1][7], rows[-1][8]) if len(rows) == _BATCH else None
    return _Part(changed, before, now, last)


def _charges(store: UsageStore, since: float, until: float, model: str | None) -> _Part:
    with store.transaction():
        changed, before, now, tally = 0, Decimal(0), Decimal(0), Tally(store.series)
        for row in store.db.execute(_CHARGES, (since, until, model, model)).fetchall():
            quarter, day, series, whole, pico, at, loaded_ms, energy_mwh, name = row
            old = from_amount(whole, pico)
            new = time_cost(store.book.price(name, at), loaded_ms, energy_mwh)
            before, now = EXACT.add(before, old), EXACT.add(now, new)
            if to_amount(new) != (whole, pico):
                changed += 1
                store.db.execute(
                    "UPDATE charges SET cost_whole = ?, cost_pico = ? WHERE quarter = ? AND series = ?",
                    (*to_amount(new), quarter, series),
                )
                _correct(tally, quarter, day, series, EXACT.subtract(from_amount(*to_amount(new)), old))
        tally.write(store.db)
    return _Part(changed, before, now, None)


def _correct(tally: Tally, quarter: int, day: int, series: int, difference: Decimal) -> None:
    """Add to the sums, or take away from them."""
    tally.add(quarter, day, series, (0, 0, 0, 0, 0, 0, *to_amount(difference)))
