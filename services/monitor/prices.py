"""The price lists of models, the commands that change them, and the repricing of stored usage."""

import time
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import Records
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import check_model_name
from schemas.errors import BadRequest, NotFound
from schemas.prices import (
    DEFAULT,
    DeletePrice,
    ListPrices,
    PriceList,
    PriceRef,
    PricesReply,
    PriceStored,
    PutPrice,
    Reprice,
    Repriced,
    StoredPrices,
    spell_money,
)
from schemas.registry import ModelChange, ModelChanged
from schemas.subjects import REQUEST_FINISHED
from services.monitor.price_book import (
    EXACT,
    Amount,
    PriceBook,
    check_tiers,
    from_amount,
    price_key,
    time_cost,
    to_amount,
    valid_at,
)
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.rollup_updates import RollupBatch
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


class Prices:
    """The bucket `prices`, with a price book that is always current."""

    def __init__(self, records: Records[PriceList], currency: str) -> None:
        self.book = PriceBook(records.values)
        self._records = records
        self._currency = currency
        records.cache.listen(lambda _key, _prices: self._update_book())

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, currency: str) -> "Prices":
        records = await Records.start(bus, buckets.PRICES, tasks, "price list of", key_of=price_key)
        prices = cls(records, currency)
        await bus.subscribe(subjects.MODEL_CHANGED, prices._on_renamed, change=ModelChange.RENAMED)
        return prices

    def _update_book(self) -> None:
        self.book = PriceBook(self._records.values)

    async def _on_renamed(self, _tokens: dict[str, str], changed: ModelChanged) -> None:
        """Move the price list to the new name, unless that has one of its own."""
        if changed.before is None or changed.after is None:
            return
        old = await self._records.head(changed.before.name)
        new = await self._records.head(changed.after.name)
        if old.value is not None and new.value is None:
            await self._records.replace(new, msgspec.structs.replace(old.value, model=new.name))
            await self._records.replace(old, None)

    async def put(self, command: PutPrice) -> PriceStored:
        """Add a price, or replace the one that is valid from the same moment."""
        check_tiers(command.price)
        _check_model(command.model)
        head = await self._records.head(command.model, expected=command.revision)
        since = command.price.valid_from
        new = msgspec.structs.replace(
            command.price, valid_from=round(time.time(), 3) if since is None else since
        )
        stored = head.value.prices if head.value else ()
        prices = [*(price for price in stored if price.valid_from != new.valid_from), new]
        prices.sort(key=lambda price: price.valid_from or 0.0)
        changed = PriceList(model=command.model, prices=tuple(prices))
        revision = await self._records.replace(head, changed)
        return PriceStored(model=command.model, revision=revision)

    async def get(self, ref: PriceRef) -> StoredPrices:
        """The prices of one model; NotFound if it has none of its own."""
        _check_model(ref.model)
        head = await self._records.head(ref.model)
        if head.value is None:
            raise NotFound(f"{ref.model} has no price of its own.", param="model")
        return _stored(head.value, head.revision)

    async def list(self, _query: ListPrices) -> PricesReply:
        lists = sorted(self._records.values.values(), key=lambda prices: prices.model)
        return PricesReply(
            prices=tuple(_stored(prices, self._records.revision(prices.model)) for prices in lists),
            currency=self._currency,
        )

    async def delete(self, command: DeletePrice) -> PriceStored:
        """Delete one price or all of a model; counted usage keeps its cost."""
        _check_model(command.model)
        head = await self._records.head(command.model)
        if head.value is None:
            raise NotFound(f"{command.model} has no price of its own.", param="model")
        head = await self._records.head(command.model, expected=command.revision)
        stored = head.value.prices if head.value else ()
        rest = tuple(price for price in stored if price.valid_from != command.valid_from)
        if command.valid_from is not None and len(rest) == len(stored):
            raise NotFound(f"{command.model} has no price that begins then.", param="valid_from")
        emptied = command.valid_from is None or not rest
        changed = None if emptied else PriceList(model=command.model, prices=rest)
        return PriceStored(model=command.model, revision=await self._records.replace(head, changed))


def _check_model(model: str) -> None:
    try:
        if model != DEFAULT:
            check_model_name(model)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="model") from error


def _stored(prices: PriceList, revision: int) -> StoredPrices:
    now = valid_at(prices.prices, time.time())
    return StoredPrices(model=prices.model, prices=prices.prices, revision=revision, now=now)


@dataclass
class _Repricing:
    """The changed records, and the costs of all records before and after."""

    changed: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)

    def add(
        self, batch: RollupBatch, quarter: int, day: int, series: int, old: Amount, new: Decimal
    ) -> Amount | None:
        """The new amount if it differs from the old one; the difference is added to `batch`."""
        self.before, self.after = EXACT.add(self.before, from_amount(*old)), EXACT.add(self.after, new)
        if (amount := to_amount(new)) == old:
            return None
        self.changed += 1
        difference = EXACT.subtract(from_amount(*amount), from_amount(*old))
        batch.add(quarter, day, series, (0, 0, 0, 0, 0, 0, *to_amount(difference)))
        return amount


async def reprice(usage: UsageDatabase, command: Reprice) -> Repriced:
    """Answer `price.reprice`. Usage that is stored as sums alone keeps its cost."""
    until = time.time() if command.until is None else command.until
    if not 0 <= command.since < until <= END:
        raise BadRequest("`since` must be a time before `until`, in unix seconds.", param="since")
    model = None if command.model in (None, DEFAULT) else command.model
    repricing, bounds = _Repricing(), (command.since, until)
    cursor: tuple[float, str] | None = (-1.0, "")
    while cursor is not None:
        cursor = await usage.write(_reprice_requests, repricing, bounds, cursor, model)
    await usage.write(_reprice_charges, repricing, bounds, model)
    await usage.notify_recount()
    return Repriced(
        records=repricing.changed,
        before=spell_money(repricing.before),
        after=spell_money(repricing.after),
    )


def _reprice_requests(
    store: UsageStore,
    repricing: _Repricing,
    bounds: tuple[float, float],
    after: tuple[float, str],
    model: str | None,
) -> tuple[float, str] | None:
    """Returns the cursor of the next batch; None after the last."""
    with store.transaction():
        rows = store.db.execute(_SELECT_REQUESTS, (*bounds, *after, model, model, _BATCH)).fetchall()
        price_book, batch = store.price_book, RollupBatch(store.series)
        for rowid, quarter, day, series, whole, pico, record, _at, _request in rows:
            new = price_book.cost(REQUEST_FINISHED.decode(record.encode()))
            if (amount := repricing.add(batch, quarter, day, series, (whole, pico), new)) is not None:
                store.db.execute(
                    "UPDATE requests SET cost_whole = ?, cost_pico = ? WHERE rowid = ?", (*amount, rowid)
                )
        batch.write(store.db)
    return (rows[-1][7], rows[-1][8]) if len(rows) == _BATCH else None


def _reprice_charges(
    store: UsageStore, repricing: _Repricing, bounds: tuple[float, float], model: str | None
) -> None:
    with store.transaction():
        batch = RollupBatch(store.series)
        for row in store.db.execute(_SELECT_CHARGES, (*bounds, model, model)).fetchall():
            quarter, day, series, whole, pico, at, loaded_ms, energy_mwh, name = row
            new = time_cost(store.price_book.price(name, at), loaded_ms, energy_mwh)
            if (amount := repricing.add(batch, quarter, day, series, (whole, pico), new)) is not None:
                store.db.execute(
                    "UPDATE charges SET cost_whole = ?, cost_pico = ? WHERE quarter = ? AND series = ?",
                    (*amount, quarter, series),
                )
        batch.write(store.db)
