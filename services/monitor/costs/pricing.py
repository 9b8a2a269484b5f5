"""The arithmetic of prices. Pure, and exact: one request is priced by the first tier that fits it."""

from collections.abc import Iterable
from decimal import Decimal

from schemas.prices import Method, Price, Tier
from schemas.requests import RequestFinished
from services.monitor.costs.money import EXACT

_MILLION = Decimal(1_000_000)
MAX_TOKENS = 2**40
"""More in one request is a fault of the engine; counted so, no sum leaves SQLite's 64 bits."""


def counted(tokens: int) -> int:
    """A number of tokens that can be reckoned with."""
    return min(max(tokens, 0), MAX_TOKENS)


def valid_at(prices: Iterable[Price], at: float) -> Price | None:
    """The price that is valid at a moment; None before the first."""
    begun = [price for price in prices if (price.valid_from or 0.0) <= at]
    return max(begun, key=lambda price: price.valid_from or 0.0, default=None)


def request_cost(price: Price | None, record: RequestFinished) -> Decimal:
    """What a request costs by itself; nothing where time or energy is paid for."""
    if price is None or price.method is not Method.TOKENS:
        return Decimal(0)
    prompt, completion = counted(record.prompt_tokens), counted(record.completion_tokens)
    tier = tier_of(price.tiers, prompt, completion)
    return tier_cost(tier, prompt, min(counted(record.cached_tokens), prompt), completion)


def tier_of(tiers: Iterable[Tier], prompt: int, completion: int) -> Tier:
    """The first that fits; tiers that were checked when they were saved always have one."""
    return next(tier for tier in tiers if fits(tier, prompt, completion))


def fits(tier: Tier, prompt: int, completion: int) -> bool:
    """Whether a request of this size belongs to the tier."""
    return (
        tier.min_prompt_tokens <= prompt
        and (tier.max_prompt_tokens is None or prompt <= tier.max_prompt_tokens)
        and tier.min_completion_tokens <= completion
        and (tier.max_completion_tokens is None or completion <= tier.max_completion_tokens)
    )


def tier_cost(tier: Tier, prompt: int, cached: int, completion: int) -> Decimal:
    """Prices are for a million tokens. What did not come from the cache was written to it."""
    read = tier.input if tier.cached_read is None else tier.cached_read
    fresh = EXACT.multiply(Decimal(prompt - cached), EXACT.add(tier.input, tier.cache_write))
    rest = EXACT.add(EXACT.multiply(Decimal(cached), read), EXACT.multiply(Decimal(completion), tier.output))
    return EXACT.divide(EXACT.add(fresh, rest), _MILLION)


def time_cost(price: Price | None, loaded_ms: int, energy_mwh: int) -> Decimal:
    """What some time of being loaded costs; energy in thousandths of a watt-hour."""
    if price is not None and price.per_hour is not None:
        return EXACT.divide(EXACT.multiply(Decimal(loaded_ms), price.per_hour), Decimal(3_600_000))
    if price is not None and price.per_kwh is not None:
        return EXACT.divide(EXACT.multiply(Decimal(energy_mwh), price.per_kwh), _MILLION)
    return Decimal(0)
