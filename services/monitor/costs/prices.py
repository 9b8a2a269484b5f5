"""The prices of models, and the commands that change them."""

import asyncio
import contextlib
import time

import msgspec

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import check_model_name
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.prices import (
    DEFAULT,
    DeletePrice,
    ListPrices,
    Price,
    PriceList,
    PriceRef,
    PricesAnswer,
    PriceStored,
    PutPrice,
    StoredPrices,
)
from schemas.registry import ModelChange, ModelChanged
from services.monitor.costs.book import PriceBook, price_key
from services.monitor.costs.pricing import valid_at
from services.monitor.costs.tiers import check_tiers

_MIRROR_S = 3.0
"""How long the broker may take to tell us what we wrote."""


class Prices:
    """The bucket `prices`, with a book of it that is always ready."""

    def __init__(self, bus: Bus, mirror: BucketCache[PriceList], currency: str) -> None:
        self.book = PriceBook(mirror.values)
        self._mirror = mirror
        self._store = BucketStore(bus, buckets.PRICES)
        self._currency = currency
        mirror.listen(self._on_change)

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, currency: str) -> "Prices":
        prices = cls(bus, await BucketCache.start(bus, buckets.PRICES, tasks), currency)
        await bus.subscribe(subjects.MODEL_CHANGED, prices._on_renamed, change=ModelChange.RENAMED)
        return prices

    async def _on_renamed(self, _tokens: dict[str, str], changed: ModelChanged) -> None:
        """A model that is called otherwise costs what it did; a price that the new name has stays."""
        if changed.before is None or changed.after is None:
            return
        old, new = price_key(changed.before.name), price_key(changed.after.name)
        (value, revision), (taken, last) = await self._store.head(old), await self._store.head(new)
        if value is not None and taken is None:
            await self._store.put(new, msgspec.structs.replace(value, model=changed.after.name), last=last)
            await self._store.delete(old, last=revision)

    def _on_change(self, _key: str, _prices: PriceList | None) -> None:
        self.book = PriceBook(self._mirror.values)

    async def put(self, asked: PutPrice) -> PriceStored:
        """Add a price, or replace the one that is valid from the same moment."""
        check_tiers(asked.price)
        check_name(asked.model)
        key, since = price_key(asked.model), asked.price.valid_from
        before, revision = await self._store.head(key)
        _check_revision(asked.model, asked.revision, revision if before else 0)
        price = msgspec.structs.replace(
            asked.price, valid_from=round(time.time(), 3) if since is None else since
        )
        kept = [each for each in (before.prices if before else ()) if each.valid_from != price.valid_from]
        changed = sorted([*kept, price], key=lambda each: each.valid_from or 0.0)
        after = PriceList(model=asked.model, prices=tuple(changed))
        stored = await self._store.put(key, after, last=revision)
        audit.changed(f"prices of {asked.model}", before, after)
        await self._known(key, stored)
        return PriceStored(model=asked.model, revision=stored)

    async def get(self, ref: PriceRef) -> StoredPrices:
        """The prices of one model; NotFound if it has none of its own."""
        check_name(ref.model)
        value, revision = await self._store.head(price_key(ref.model))
        if value is None:
            raise NotFound(f"{ref.model} has no price of its own.", param="model")
        return _stored(value, revision)

    async def all(self, _wanted: ListPrices) -> PricesAnswer:
        """Every price."""
        found = sorted(self._mirror.values.items(), key=lambda item: item[1].model)
        return PricesAnswer(
            prices=tuple(_stored(value, self._mirror.revisions[key]) for key, value in found),
            currency=self._currency,
        )

    async def delete(self, asked: DeletePrice) -> PriceStored:
        """Take one or all away; what was counted keeps its cost."""
        check_name(asked.model)
        key = price_key(asked.model)
        before, revision = await self._store.head(key)
        if before is None:
            raise NotFound(f"{asked.model} has no price of its own.", param="model")
        _check_revision(asked.model, asked.revision, revision)
        kept = tuple(each for each in before.prices if each.valid_from != asked.valid_from)
        if asked.valid_from is not None and len(kept) == len(before.prices):
            raise NotFound(f"{asked.model} has no price that begins then.", param="valid_from")
        if asked.valid_from is None or not kept:
            stored = await self._store.delete(key, last=revision)
            audit.changed(f"prices of {asked.model}", before, None)
            await self._unknown(key)
        else:
            after = PriceList(model=asked.model, prices=kept)
            stored = await self._store.put(key, after, last=revision)
            audit.changed(f"prices of {asked.model}", before, after)
            await self._known(key, stored)
        return PriceStored(model=asked.model, revision=stored)

    async def _known(self, key: str, revision: int) -> None:
        """Wait until the book has it: what is counted from now on has the new price."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MIRROR_S):
                await self._mirror.until(lambda _: self._mirror.revisions.get(key, 0) >= revision)

    async def _unknown(self, key: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MIRROR_S):
                await self._mirror.until(lambda values: key not in values)


def check_name(model: str) -> None:
    """BadRequest if no model can be called so."""
    try:
        if model != DEFAULT:
            check_model_name(model)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="model") from error


def _check_revision(model: str, seen: int | None, there: int) -> None:
    if seen is not None and seen != there:
        raise Conflict(f"The prices of {model} were changed meanwhile; read them again.", param="revision")


def _stored(value: PriceList, revision: int) -> StoredPrices:
    now: Price | None = valid_at(value.prices, time.time())
    return StoredPrices(model=value.model, prices=value.prices, revision=revision, now=now)
