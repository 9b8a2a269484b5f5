"""Prices: exact, by the first matching tier, without gap and overlap."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.devices import Device, DeviceKind
from schemas.errors import BadRequest
from schemas.instances import Instance, InstanceState, Reason, Reserved
from schemas.prices import Price, PriceList, PriceTier, PricingMethod, spell_money
from services.monitor.price_book import (
    PriceBook,
    check_tiers,
    from_amount,
    request_cost,
    time_cost,
    to_amount,
    valid_at,
)
from services.monitor.usage.loaded_time import energy_shares
from tests.unit.usage_records import record

AMOUNTS = st.decimals(0, 1_000_000, places=6, allow_nan=False, allow_infinity=False)
SIZES = st.integers(0, 200_000)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[PriceTier, ...]:
    """Tiers that cover every size once: split by prompt, and each of these by completion."""

    def intervals() -> list[tuple[int, int | None]]:
        cuts = sorted(draw(st.sets(st.integers(1, 100_000), max_size=3)))
        return list(zip([0, *cuts], [*(cut - 1 for cut in cuts), None], strict=True))

    tiers = [
        PriceTier(
            min_prompt_tokens=prompt[0],
            max_prompt_tokens=prompt[1],
            min_completion_tokens=completion[0],
            max_completion_tokens=completion[1],
            input=draw(AMOUNTS),
            output=draw(AMOUNTS),
            cached_read=draw(st.none() | AMOUNTS),
            cache_write=draw(AMOUNTS),
        )
        for prompt in intervals()
        for completion in intervals()
    ]
    return tuple(draw(st.permutations(tiers)))


def reference_cost(tiers: tuple[PriceTier, ...], prompt: int, cached: int, completion: int) -> Fraction:
    """The reference: the cost of a request in fractions."""
    for tier in tiers:
        too_long = tier.max_prompt_tokens is not None and prompt > tier.max_prompt_tokens
        too_much = tier.max_completion_tokens is not None and completion > tier.max_completion_tokens
        if prompt < tier.min_prompt_tokens or completion < tier.min_completion_tokens or too_long or too_much:
            continue
        cost = Fraction(0)
        for tokens, price in (
            (cached, tier.input if tier.cached_read is None else tier.cached_read),
            (prompt - cached, tier.input),
            (prompt - cached, tier.cache_write),
            (completion, tier.output),
        ):
            cost += Fraction(tokens) * Fraction(price) / Fraction(1_000_000)
        return cost
    raise AssertionError("no tier matches")


@given(tilings(), SIZES, SIZES, SIZES)
def test_request_costs_equal_the_reference(
    tiers: tuple[PriceTier, ...], prompt: int, cached: int, completion: int
) -> None:
    price = Price(tiers=tiers)
    check_tiers(price)
    finished = record("r", prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
    cost = request_cost(price, finished)
    expected = reference_cost(tiers, prompt, min(cached, prompt), completion)
    assert Fraction(cost) == expected
    assert Fraction(from_amount(*to_amount(cost))) == expected, "and it is stored so"
    assert Fraction(Decimal(spell_money(cost))) == expected
    assert "E" not in spell_money(cost)


@given(tilings(), st.data())
def test_a_removed_tier_is_a_gap_and_a_repeated_one_an_overlap(
    tiers: tuple[PriceTier, ...], data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(tiers) - 1))
    if len(tiers) > 1:
        with pytest.raises(BadRequest, match="There is a gap"):
            check_tiers(Price(tiers=(*tiers[:chosen], *tiers[chosen + 1 :])))
    with pytest.raises(BadRequest, match=f"Tiers {chosen + 1} and {len(tiers) + 1} overlap"):
        check_tiers(Price(tiers=(*tiers, tiers[chosen])))


def test_errors_name_the_gap_or_overlap() -> None:
    low = PriceTier(max_prompt_tokens=32_768, input=Decimal(1))
    with pytest.raises(BadRequest) as gap:
        check_tiers(Price(tiers=(low, PriceTier(min_prompt_tokens=40_000))))
    assert (
        "no tier has a price for 32769 to 39999 prompt tokens and 0 or more completion" in gap.value.message
    )
    with pytest.raises(BadRequest) as overlap:
        check_tiers(Price(tiers=(low, PriceTier(min_prompt_tokens=32_768))))
    assert "Tiers 1 and 2 overlap: both have a price for 32768 prompt tokens" in overlap.value.message
    with pytest.raises(BadRequest, match="which is nothing"):
        check_tiers(Price(tiers=(PriceTier(min_prompt_tokens=5, max_prompt_tokens=4),)))
    check_tiers(Price(tiers=(low, PriceTier(min_prompt_tokens=32_769))))


def test_any_number_of_tokens_has_a_price() -> None:
    price = Price(tiers=(PriceTier(input=Decimal(1)),))
    assert request_cost(price, record("embedding", prompt_tokens=500_000, completion_tokens=0)) == Decimal(
        "0.5"
    )
    assert request_cost(None, record("r")) == 0
    assert request_cost(Price(method=PricingMethod.FREE), record("r")) == 0


@pytest.mark.parametrize(
    "invalid",
    [
        {"tiers": [{"input": "-1"}]},
        {"tiers": [{"input": "NaN"}]},
        {"tiers": [{"input": "1e400"}]},
        {"tiers": [{"input": "0.0000001"}]},
        {"tiers": []},
        {"method": "hourly"},
        {"method": "free", "per_hour": "1"},
        {"method": "energy", "per_kwh": "Infinity"},
        {"tiers": [{}], "valid_from": -1},
        {"tiers": [{}] * 33},
    ],
)
def test_invalid_prices_are_refused(invalid: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(invalid, Price)


def priced(valid_from: float, price: str) -> Price:
    return Price(valid_from=valid_from, tiers=(PriceTier(input=Decimal(price)),))


def test_prices_are_valid_until_the_next_and_fall_back_to_the_default() -> None:
    prices = (priced(100, "1"), priced(200, "2"))
    assert [valid_at(prices, at) for at in (99, 100, 199.9, 200, 1e9)] == [
        None,
        prices[0],
        prices[0],
        prices[1],
        prices[1],
    ]
    default = priced(0, "9")
    book = PriceBook(
        {"a": PriceList(model="a", prices=prices), "=2A": PriceList(model="*", prices=(default,))}
    )
    assert book.price("a", 150) == prices[0]
    assert book.price("a", 50) == default
    assert book.price("b", 150) == default
    assert (book.has("a"), book.has("b")) == (True, False)


def test_time_and_energy_costs() -> None:
    hourly, energy = (
        Price(method=PricingMethod.HOURLY, per_hour=Decimal("1.2")),
        Price(method=PricingMethod.ENERGY, per_kwh=Decimal("0.3")),
    )
    assert time_cost(hourly, 1_800_000, 0) == Decimal("0.6")
    assert time_cost(energy, 1_800_000, 500_000) == Decimal("0.15"), "half a kilowatt-hour"
    assert request_cost(hourly, record("r")) == 0
    assert time_cost(None, 1_800_000, 500_000) == 0


def instance(
    name: str, busy: int, *, node: str = "n", device: str = "gpu0", worker: str | None = None
) -> Instance:
    return Instance(
        instance=name,
        model=name,
        node=node,
        engine="e",
        revision=1,
        state=InstanceState.READY,
        reason=Reason.REQUESTED,
        changed_at=1.0,
        busy=busy,
        reserved=(Reserved(device=device, predicted_bytes=1, node=worker),),
    )


def test_energy_is_shared_by_busy_slots() -> None:
    device = Device(
        node="n",
        device="gpu0",
        kind=DeviceKind.GPU,
        name="card",
        memory_total_bytes=1,
        memory_used_bytes=0,
        memory_free_bytes=1,
        sampled_at=1.0,
        power_w=100.0,
    )
    others = [instance("else", 5, node="other"), instance("cpu", 5, device="cpu")]
    assert energy_shares(device, [instance("a", 3), instance("b", 1), instance("c", 0), *others]) == {
        "a": 0.75,
        "b": 0.25,
    }
    assert energy_shares(device, [instance("a", 0), instance("b", 0)]) == {"a": 0.5, "b": 0.5}
    assert energy_shares(device, [instance("far", 2, node="other", worker="n")]) == {"far": 1.0}
    assert energy_shares(device, others) == {}
