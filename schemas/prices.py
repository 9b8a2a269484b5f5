"""Prices of models. Money is a decimal number, in JSON a string such as "0.15"."""

from decimal import Decimal
from enum import StrEnum

from schemas.base import Record

DEFAULT = "*"
"""The price of every model that has none of its own."""
_MAX_PRICE = Decimal(1_000_000)
_DECIMALS = 6
MAX_TIERS = 32


class PricingMethod(StrEnum):
    """The pricing method."""

    FREE = "free"
    TOKENS = "tokens"
    """Per request, by its tokens."""
    HOURLY = "hourly"
    """The time that instances are ready, at work or not."""
    ENERGY = "energy"
    """Energy of its devices while it is loaded, shared with the other models there by load."""


class PriceTier(Record):
    """Prices for a million tokens, for requests of a size. Bounds are part of it; None: without end."""

    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None
    min_completion_tokens: int = 0
    max_completion_tokens: int | None = None
    input: Decimal = Decimal(0)
    """Prompt tokens that did not come from the cache."""
    output: Decimal = Decimal(0)
    cached_read: Decimal | None = None
    """Prompt tokens from the cache; None: as `input`."""
    cache_write: Decimal = Decimal(0)
    """On top of `input`, for what is written to the cache: every prompt token that did not come from it."""

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_read", "cache_write"):
            check_price(getattr(self, name), name)


class Price(Record):
    """The price of a model from a date until its next price."""

    method: PricingMethod = PricingMethod.TOKENS
    valid_from: float | None = None
    """Unix seconds; None in an order: from now on."""
    tiers: tuple[PriceTier, ...] = ()
    per_hour: Decimal | None = None
    per_kwh: Decimal | None = None

    def __post_init__(self) -> None:
        check_price(self.per_hour, "per_hour")
        check_price(self.per_kwh, "per_kwh")
        if self.valid_from is not None and not 0 <= self.valid_from < 4e9:
            raise ValueError("valid_from must be a time in unix seconds")
        wanted = {
            PricingMethod.TOKENS: "tiers",
            PricingMethod.HOURLY: "per_hour",
            PricingMethod.ENERGY: "per_kwh",
        }.get(self.method)
        for name in ("tiers", "per_hour", "per_kwh"):
            given = getattr(self, name) not in (None, ())
            if given != (name == wanted):
                verb = "needs" if name == wanted else "takes no"
                raise ValueError(f"a price by method {self.method} {verb} {name}")
        if len(self.tiers) > MAX_TIERS:
            raise ValueError(f"a price has at most {MAX_TIERS} tiers")


def check_price(price: Decimal | None, name: str) -> None:
    """ValueError unless it is None or an amount that can be counted with exactly."""
    if price is None:
        return
    if not price.is_finite() or not 0 <= price <= _MAX_PRICE:
        raise ValueError(f"{name} must be from 0 to {_MAX_PRICE}")
    exponent = price.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _DECIMALS:
        raise ValueError(f"{name} may have at most {_DECIMALS} digits after the point")


class PriceList(Record):
    """All prices of one model, oldest first."""

    model: str
    """Its name, or `*`."""
    prices: tuple[Price, ...] = ()


class PutPrice(Record):
    """Another price for a model; the one that was valid from the same moment is replaced."""

    model: str
    """Name or alias, or `*`."""
    price: Price
    retroactive: bool = False
    """Recompute the cost of usage since `valid_from`. Otherwise past usage keeps its cost."""
    revision: int | None = None
    """Compare-and-set: the revision that the caller saw; 0: none may exist yet."""


class PriceRef(Record):
    """The model whose prices are requested."""

    model: str


class DeletePrice(Record):
    """Delete one price of a model, or all. Recorded usage keeps its cost."""

    model: str
    valid_from: float | None = None
    revision: int | None = None


class ListPrices(Record):
    """All of them."""


class StoredPrices(Record):
    """The prices of one model as stored."""

    model: str
    prices: tuple[Price, ...]
    revision: int
    now: Price | None = None
    """The one that is valid now."""


class PricesReply(Record):
    """Prices by model."""

    prices: tuple[StoredPrices, ...]
    currency: str


class PriceStored(Record):
    """The prices are stored, or taken away."""

    model: str
    revision: int
    repriced: int = 0
    """Records whose cost changed."""


class Reprice(Record):
    """Recompute the costs of a period with the current prices."""

    since: float
    until: float | None = None
    model: str | None = None


class Repriced(Record):
    """The result of a repricing."""

    records: int
    """Records whose cost changed."""
    before: str
    """Total cost of the period so far."""
    after: str


def spell_money(amount: Decimal) -> str:
    """Plain digits, never an exponent, no zeros at the end: `0.0000012`, `12`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
