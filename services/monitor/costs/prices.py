"""The price lists of models and the commands that change them."""

import time

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
    PricesAnswer,
    PriceStored,
    PutPrice,
    StoredPrices,
)
from schemas.registry import ModelChange, ModelChanged
from services.monitor.costs.pricing import PriceBook, check_tiers, price_key, valid_at


class Prices:
    """The bucket `prices`, with a price book that is always current."""

    def __init__(self, records: Records[PriceList], currency: str) -> None:
        self.book = PriceBook(records.values)
        self._records = records
        self._currency = currency
        records.cache.listen(self._on_change)

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, currency: str) -> "Prices":
        records = await Records.start(bus, buckets.PRICES, tasks, "price list of", key_of=price_key)
        prices = cls(records, currency)
        await bus.subscribe(subjects.MODEL_CHANGED, prices._on_renamed, change=ModelChange.RENAMED)
        return prices

    def _on_change(self, _key: str, _prices: PriceList | None) -> None:
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

    async def list(self, _query: ListPrices) -> PricesAnswer:
        """All price lists, by model."""
        lists = sorted(self._records.values.values(), key=lambda prices: prices.model)
        return PricesAnswer(
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
