"""All prices at one moment, to be looked up from any thread."""

from collections.abc import Mapping
from decimal import Decimal

from schemas.base import model_key
from schemas.prices import DEFAULT, Price, PriceList
from schemas.requests import RequestFinished
from services.monitor.costs.pricing import request_cost, valid_at

DEFAULT_KEY = "=2A"
"""What `*` would be as a model key, if a model could be called so."""


def price_key(model: str) -> str:
    """The bucket key of a model's prices."""
    return DEFAULT_KEY if model == DEFAULT else model_key(model)


class PriceBook:
    """Never changes; another takes its place."""

    def __init__(self, lists: Mapping[str, PriceList]) -> None:
        self._prices = {each.model: each.prices for each in lists.values()}

    def price(self, model: str, at: float) -> Price | None:
        """The model's own price at that moment, else the default one, else None: it is free."""
        own = valid_at(self._prices.get(model, ()), at)
        return own if own is not None else valid_at(self._prices.get(DEFAULT, ()), at)

    def cost(self, record: RequestFinished) -> Decimal:
        """What a request costs, at the prices of when it ended."""
        return request_cost(self.price(record.model, record.finished_at), record)

    def has(self, model: str) -> bool:
        """Whether the model has a price of its own."""
        return bool(self._prices.get(model))
