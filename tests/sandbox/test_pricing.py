from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.sandbox.pricing import (
    GOLD,
    METALS,
    SILVER,
    FeeSchedule,
    Figures,
    Line,
    PriceWalk,
    compute_card_commission,
    compute_figures,
    r2,
)

FEBRUARY, MARCH = FeeSchedule(), FeeSchedule.march_2026()
ANCHOR = 1_771_590_477

# From the evidence guide, section "Fees".
BUYS = [
    (FEBRUARY, [("592.34", 1)], "592.34 10.37 11.85 1.78 1.20 617.54"),
    (FEBRUARY, [("592.34", 3)], "1777.02 31.10 35.55 5.33 3.60 1852.60"),
    (MARCH, [("496", 1), ("496", 1), ("603.27", 1)], "1595.27 159.53 79.76 319.05 27.92 2181.53"),
    (MARCH, [("601.78", 5)], "3008.90 300.89 150.45 601.78 52.66 4114.68"),
    (MARCH, [("2184.24", 1)], "2184.24 218.42 109.21 436.85 38.22 2986.94"),
]


@pytest.mark.parametrize(("rates", "lines", "figures"), BUYS)
def test_buy_equals_documented_examples(rates, lines, figures):
    found = compute_figures("buy", [Line(D(price), amount) for price, amount in lines], rates)
    total, charge, minting, storage, vat, paid = map(D, figures.split())
    assert found == Figures(total, total, D(0), charge, minting, storage, vat, paid)


def test_sell_equals_documented_example():
    found = compute_figures("sell", [Line(D("546.06"), 5)], MARCH)
    assert found == Figures(
        price=D("2730.30"),
        total=D("2730.30"),
        charge_fee=D("273.03"),
        charges_vat=D("13.65"),
        paid_total=D("2443.62"),
    )


def test_delivery_equals_documented_example():
    found = compute_figures("delivery", [Line(D(0), 1)], MARCH)
    assert found == Figures(total=D(3), delivery_cost=D(3), charges_vat=D("0.15"), paid_total=D("3.15"))


@pytest.mark.parametrize("kind", ["buy", "sell", "delivery"])
def test_figures_without_lines_are_zero(kind):
    assert compute_figures(kind, [], MARCH) == Figures()


def test_minting_fee_is_rounded_per_piece():
    # 2 % of all three is 35.54, 5 % of all four is 109.21.
    assert compute_figures("buy", [Line(D("592.34"), 3)], FEBRUARY).minting_fee == D("35.55")
    assert compute_figures("buy", [Line(D("546.06"), 4)], MARCH).minting_fee == D("109.20")


def test_card_commission_equals_documented_examples():
    assert (compute_card_commission(D("592.34")), compute_card_commission(D("1777.02"))) == (D("17.06"), D("51.18"))


def test_r2_rounds_half_up():
    assert (r2(D("0.005")), r2(D("2.675")), r2(D("0.0049"))) == (D("0.01"), D("2.68"), D("0.00"))


money = st.decimals("0.01", "99999.99", places=2)
lines = st.lists(st.builds(Line, money, st.integers(1, 50)), min_size=1, max_size=6)
percent = st.decimals(0, 40, places=2)
rates = st.builds(FeeSchedule, charge=percent, storage=percent, vat=percent, minting=percent)


@given(lines, rates)
def test_buy_total_is_sum_of_parts(given_lines, given_rates):
    f = compute_figures("buy", given_lines, given_rates)
    assert f.paid_total == f.total + f.charge_fee + f.minting_fee + f.storage_fee + f.charges_vat
    assert f.total == f.price == sum(line.price * line.amount for line in given_lines)
    cent = D("0.01")
    assert all(value == value.quantize(cent) for value in (f.total, f.charge_fee, f.charges_vat, f.paid_total))
    # Rounding per piece changes the minting fee by at most half a cent per piece.
    exact = f.total * given_rates.minting / 100
    assert abs(f.minting_fee - exact) <= sum(line.amount for line in given_lines) * cent / 2


@given(lines, rates)
def test_sell_pays_total_minus_fees(given_lines, given_rates):
    f = compute_figures("sell", given_lines, given_rates)
    assert f.paid_total == f.total - f.charge_fee - f.charges_vat
    assert f.minting_fee == f.storage_fee == 0
    assert f.paid_total <= f.total


@given(lines, rates)
def test_order_of_lines_does_not_change_figures(given_lines, given_rates):
    assert compute_figures("buy", given_lines, given_rates) == compute_figures("buy", given_lines[::-1], given_rates)


def quotes(walk, metal, ticks):
    return [walk.at(metal, tick) for tick in ticks]


def test_price_walk_starts_at_documented_prices():
    walk = PriceWalk(1, ANCHOR)
    gold, silver = walk.at(GOLD, 0), walk.at(SILVER, 0)
    assert (gold.spot, gold.buy, gold.sell) == (D("586.48"), D("592.34"), D("580.62"))
    assert (silver.spot, silver.buy, silver.sell) == (D("9.8218"), D("9.92"), D("9.72"))
    assert gold.piece("buy", D(1)) == D("592.34")
    assert silver.piece("buy", D(50)) == 496
    assert silver.piece("sell", D("31.1")) == D("302.29")
    assert gold.piece("delivery", D(1)) == 0


def test_seed_determines_price_walk():
    ticks = range(-50, 500)
    assert quotes(PriceWalk(1, ANCHOR), GOLD, ticks) == quotes(PriceWalk(1, ANCHOR), GOLD, ticks)
    assert quotes(PriceWalk(1, ANCHOR), GOLD, ticks) != quotes(PriceWalk(2, ANCHOR), GOLD, ticks)
    assert len(set(quotes(PriceWalk(1, ANCHOR), GOLD, ticks))) > 50


def test_price_is_constant_between_ticks():
    walk = PriceWalk(1, ANCHOR, interval=0.25)
    begin = ANCHOR * 1_000_000
    assert [walk.tick(begin + n) for n in (-1, 0, 249_999, 250_000)] == [-1, 0, 0, 1]
    assert walk.tick_start(walk.tick(begin + 300_000)) == begin + 250_000
    assert walk.quote(GOLD, begin + 300_000) == walk.at(GOLD, 1)


@given(st.integers(0, 2**32), st.sampled_from(METALS), st.integers(-50_000_000, 50_000_000))
def test_quote_is_plausible_at_any_tick(seed, metal, tick):
    quote = PriceWalk(seed, ANCHOR).at(metal, tick)
    assert quote.spot == quote.spot.quantize(metal.quantum)
    assert 0 < quote.sell < quote.spot < quote.buy
    assert metal.spot / 2 < quote.spot < metal.spot * 2


def test_interval_of_zero_raises():
    with pytest.raises(ValueError, match="positive"):
        PriceWalk(1, ANCHOR, interval=0)
