"""Whether tiers have one price for every request: no gap, no overlap. Pure."""

from collections.abc import Sequence
from itertools import pairwise

from schemas.errors import BadRequest
from schemas.prices import Price, Tier
from services.monitor.costs.pricing import fits

Span = tuple[int, int | None]
"""From the first number to the second, both of it; None: without end."""


def check_tiers(price: Price) -> None:
    """BadRequest that names the first fault."""
    for number, tier in enumerate(price.tiers, 1):
        _check_bounds(number, tier)
    if not price.tiers:
        return
    for prompt in _spans([(tier.min_prompt_tokens, tier.max_prompt_tokens) for tier in price.tiers]):
        for completion in _spans(
            [(tier.min_completion_tokens, tier.max_completion_tokens) for tier in price.tiers]
        ):
            _check_cell(price.tiers, prompt, completion)


def _check_bounds(number: int, tier: Tier) -> None:
    for low, high, what in (
        (tier.min_prompt_tokens, tier.max_prompt_tokens, "prompt"),
        (tier.min_completion_tokens, tier.max_completion_tokens, "completion"),
    ):
        if low < 0 or (high is not None and high < low):
            raise _refused(f"Tier {number} takes from {low} to {high} {what} tokens, which is nothing")


def _check_cell(tiers: Sequence[Tier], prompt: Span, completion: Span) -> None:
    """Every request of a cell fits the same tiers, so its smallest stands for all."""
    fitting = [number for number, tier in enumerate(tiers, 1) if fits(tier, prompt[0], completion[0])]
    size = f"{_spell(prompt)} prompt tokens and {_spell(completion)} completion tokens"
    if not fitting:
        raise _refused(f"There is a gap: no tier has a price for {size}")
    if len(fitting) > 1:
        raise _refused(f"Tiers {fitting[0]} and {fitting[1]} overlap: both have a price for {size}")


def _spans(bounds: Sequence[Span]) -> list[Span]:
    """All numbers from 0 on, cut wherever a tier begins or ends."""
    cuts = {0} | {low for low, _ in bounds} | {high + 1 for _, high in bounds if high is not None}
    begins = sorted(cuts)
    return [(low, after - 1) for low, after in pairwise(begins)] + [(begins[-1], None)]


def _spell(span: Span) -> str:
    low, high = span
    if high is None:
        return f"{low} or more"
    return f"{low}" if low == high else f"{low} to {high}"


def _refused(sentence: str) -> BadRequest:
    return BadRequest(f"{sentence}; bounds are part of a tier, and null is without end.", param="tiers")
