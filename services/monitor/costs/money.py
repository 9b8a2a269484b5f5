"""Amounts of money as SQLite sums them exactly: whole units, and millionths of millionths of one."""

from decimal import Context, Decimal

from schemas.prices import spell_money

PICO = 10**12
EXACT = Context(prec=60)
"""Enough digits for the largest prices, times the most tokens, added up for ever."""
_SMALLEST = Decimal(1).scaleb(-12)
Amount = tuple[int, int]
"""Whole units, and the rest as a count of 10^-12, less than one unit."""


def to_amount(money: Decimal) -> Amount:
    """What lies between two counts is rounded to the even one; token prices never do."""
    counted = int(EXACT.scaleb(EXACT.quantize(money, _SMALLEST), 12))
    return divmod(counted, PICO)


def from_amount(whole: int, pico: int) -> Decimal:
    """The inverse; sums of parts may have more than one unit in the second."""
    return EXACT.scaleb(Decimal(whole * PICO + pico), -12)


def spelled(whole: int, pico: int) -> str:
    """As it goes over the wire."""
    return spell_money(from_amount(whole, pico))
