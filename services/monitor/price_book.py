"""Exact arithmetic of prices: amounts, tiers, and the price book that is valid now. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from itertools import pairwise

from schemas.base import model_key
from schemas.errors import BadRequest
from schemas.prices import DEFAULT, Price, PriceList, PriceTier, PricingMethod, spell_money
from schemas.requests import RequestFinished

PICO = 10**12
EXACT = Context(prec=60)
"""Digits enough for sums of the largest prices times the most tokens."""
_SMALLEST = Decimal(1).scaleb(-12)
Amount = tuple[int, int]
"""Money as SQLite sums it exactly: whole units, and the rest as a count of 10^-12."""
_MILLION = Decimal(1_000_000)
MAX_TOKENS = 2**40
"""An engine that reports more in one request is faulty; the limit keeps sums within SQLite's 64 bits."""
DEFAULT_KEY = "=2A"
"""What `*` would be as a model key, if a model could have that name."""


def to_amount(money: Decimal) -> Amount:
    """Rounded half-even to 10^-12; token prices need no rounding."""
    return divmod(int(EXACT.scaleb(EXACT.quantize(money, _SMALLEST), 12)), PICO)


def from_amount(whole: int, pico: int) -> Decimal:
    """The inverse of `to_amount`; in sums, `pico` may be more than one unit."""
    return EXACT.scaleb(Decimal(whole * PICO + pico), -12)


def format_amount(whole: int, pico: int) -> str:
    return spell_money(from_amount(whole, pico))


def clamp_tokens(tokens: int) -> int:
    return min(max(tokens, 0), MAX_TOKENS)


def valid_at(prices: Iterable[Price], at: float) -> Price | None:
    """The price that is valid at a moment; None before the first."""
    started = [price for price in prices if (price.valid_from or 0.0) <= at]
    return max(started, key=lambda price: price.valid_from or 0.0, default=None)


def request_cost(price: Price | None, record: RequestFinished) -> Decimal:
    """The cost of a request; 0 without a price and where time or energy is charged."""
    if price is None or price.method is not PricingMethod.TOKENS:
        return Decimal(0)
    prompt, completion = clamp_tokens(record.prompt_tokens), clamp_tokens(record.completion_tokens)
    # Tiers that passed `check_tiers` always have a match.
    tier = next(tier for tier in price.tiers if tier_matches(tier, prompt, completion))
    return tier_cost(tier, prompt, min(clamp_tokens(record.cached_tokens), prompt), completion)


def tier_matches(tier: PriceTier, prompt: int, completion: int) -> bool:
    return (
        tier.min_prompt_tokens <= prompt
        and (tier.max_prompt_tokens is None or prompt <= tier.max_prompt_tokens)
        and tier.min_completion_tokens <= completion
        and (tier.max_completion_tokens is None or completion <= tier.max_completion_tokens)
    )


def tier_cost(tier: PriceTier, prompt: int, cached: int, completion: int) -> Decimal:
    """Prices are per million tokens; prompt tokens not read from the cache are written to it."""
    read = tier.input if tier.cached_read is None else tier.cached_read
    written = EXACT.multiply(Decimal(prompt - cached), EXACT.add(tier.input, tier.cache_write))
    rest = EXACT.add(EXACT.multiply(Decimal(cached), read), EXACT.multiply(Decimal(completion), tier.output))
    return EXACT.divide(EXACT.add(written, rest), _MILLION)


def time_cost(price: Price | None, loaded_ms: int, energy_mwh: int) -> Decimal:
    if price is not None and price.per_hour is not None:
        return EXACT.divide(EXACT.multiply(Decimal(loaded_ms), price.per_hour), Decimal(3_600_000))
    if price is not None and price.per_kwh is not None:
        return EXACT.divide(EXACT.multiply(Decimal(energy_mwh), price.per_kwh), _MILLION)
    return Decimal(0)


def price_key(model: str) -> str:
    return DEFAULT_KEY if model == DEFAULT else model_key(model)


class PriceBook:
    """All price lists at one moment. Immutable, for any thread; a change makes a new one."""

    def __init__(self, lists: Mapping[str, PriceList]) -> None:
        self._prices = {price_list.model: price_list.prices for price_list in lists.values()}

    def price(self, model: str, at: float) -> Price | None:
        """The model's own price at that moment, else the default price, else None: it is free."""
        own = valid_at(self._prices.get(model, ()), at)
        return own if own is not None else valid_at(self._prices.get(DEFAULT, ()), at)

    def cost(self, record: RequestFinished) -> Decimal:
        return request_cost(self.price(record.model, record.finished_at), record)

    def has(self, model: str) -> bool:
        return bool(self._prices.get(model))


_Bounds = tuple[int, int | None]
"""First and last number; None: without end."""


def check_tiers(price: Price) -> None:
    """BadRequest, with the first fault, unless every request matches exactly one tier."""
    for number, tier in enumerate(price.tiers, 1):
        _check_bounds(number, tier)
    if not price.tiers:
        return
    for prompt in _intervals([(tier.min_prompt_tokens, tier.max_prompt_tokens) for tier in price.tiers]):
        for completion in _intervals(
            [(tier.min_completion_tokens, tier.max_completion_tokens) for tier in price.tiers]
        ):
            _check_interval(price.tiers, prompt, completion)


def _check_bounds(number: int, tier: PriceTier) -> None:
    for low, high, what in (
        (tier.min_prompt_tokens, tier.max_prompt_tokens, "prompt"),
        (tier.min_completion_tokens, tier.max_completion_tokens, "completion"),
    ):
        if low < 0 or (high is not None and high < low):
            raise _invalid_tiers(f"Tier {number} takes from {low} to {high} {what} tokens, which is nothing")


def _check_interval(tiers: Sequence[PriceTier], prompt: _Bounds, completion: _Bounds) -> None:
    # Every request of an interval matches the same tiers, so its smallest stands for all.
    matching = [
        number for number, tier in enumerate(tiers, 1) if tier_matches(tier, prompt[0], completion[0])
    ]
    size = f"{_format(prompt)} prompt tokens and {_format(completion)} completion tokens"
    if not matching:
        raise _invalid_tiers(f"There is a gap: no tier has a price for {size}")
    if len(matching) > 1:
        raise _invalid_tiers(f"Tiers {matching[0]} and {matching[1]} overlap: both have a price for {size}")


def _intervals(bounds: Sequence[_Bounds]) -> list[_Bounds]:
    """All numbers from 0, cut wherever a tier begins or ends."""
    cuts = {0} | {low for low, _ in bounds} | {high + 1 for _, high in bounds if high is not None}
    starts = sorted(cuts)
    return [(low, after - 1) for low, after in pairwise(starts)] + [(starts[-1], None)]


def _format(bounds: _Bounds) -> str:
    low, high = bounds
    if high is None:
        return f"{low} or more"
    return f"{low}" if low == high else f"{low} to {high}"


def _invalid_tiers(sentence: str) -> BadRequest:
    return BadRequest(f"{sentence}; bounds are part of a tier, and null is without end.", param="tiers")
