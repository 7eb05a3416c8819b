"""Prices and fees: a seeded walk of the metal prices, and the fee formulas of the evidence guide ("Fees").

All numbers are exact: integers inside the walk, `Decimal` outside. Money is AED, weights are grams.
"""

import hashlib
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Literal

from attrs import evolve, field, frozen

OrderKind = Literal["buy", "sell", "delivery"]

ZERO = Decimal(0)
_CENT = Decimal("0.01")
_HUNDRED = Decimal(100)
_CARD_COMMISSION = Decimal("2.88")  # percent, from two examples of Feb 2026
_SPREAD_BUY = Decimal("1.01")
_SPREAD_SELL = Decimal("0.99")


def r2(value: Decimal) -> Decimal:
    """Round to 2 decimals, half up; half up is assumed, no example of the vendor is a tie."""
    return value.quantize(_CENT, ROUND_HALF_UP)


@frozen
class FeeSchedule:
    """The fees. The defaults are those of the examples of Feb 2026.

    Attributes:
        charge: service fee of a buy or sell, percent of `total`.
        storage: storage fee of a buy, percent of `total`.
        vat: VAT, percent of the fees.
        minting: minting fee of a buy, percent of the price of a piece, rounded per piece.
        delivery_cost: AED for each delivery.
    """

    charge: Decimal = field(default=Decimal("1.75"), converter=Decimal)
    storage: Decimal = field(default=Decimal("0.3"), converter=Decimal)
    vat: Decimal = field(default=Decimal(5), converter=Decimal)
    minting: Decimal = field(default=Decimal(2), converter=Decimal)
    delivery_cost: Decimal = field(default=Decimal(3), converter=Decimal)

    @classmethod
    def march_2026(cls) -> "FeeSchedule":
        """Return the fees of the examples of Mar 2026."""
        return cls(charge=Decimal(10), storage=Decimal(20), vat=Decimal(5), minting=Decimal(5))

    def without_storage(self) -> "FeeSchedule":
        """Return the same fees with no storage fee."""
        return evolve(self, storage=ZERO)


@frozen
class Line:
    """A line as the fees need it: the price of one piece, and the number of pieces."""

    price: Decimal
    amount: int

    @property
    def total(self) -> Decimal:
        """The price of all pieces."""
        return self.price * self.amount


@frozen
class Figures:
    """The amounts of a basket or order (evidence guide, "Fees")."""

    price: Decimal = ZERO
    total: Decimal = ZERO
    delivery_cost: Decimal = ZERO
    charge_fee: Decimal = ZERO
    minting_fee: Decimal = ZERO
    storage_fee: Decimal = ZERO
    charges_vat: Decimal = ZERO
    paid_total: Decimal = ZERO


def compute_minting_price(price: Decimal, fees: FeeSchedule) -> Decimal:
    """Return the minting fee of one piece; the vendor rounds it, not the sum."""
    return r2(price * fees.minting / _HUNDRED)


def compute_figures(kind: OrderKind, lines: Iterable[Line], fees: FeeSchedule) -> Figures:
    """Return the amounts of a basket, by the inferred formulas of the evidence guide ("Fees").

    All amounts of an empty basket are 0, also of a delivery.
    """
    lines = tuple(lines)
    if not lines:
        return Figures()
    if kind == "delivery":
        cost = fees.delivery_cost
        vat = r2(cost * fees.vat / _HUNDRED)
        return Figures(total=cost, delivery_cost=cost, charges_vat=vat, paid_total=cost + vat)
    total = sum((line.total for line in lines), ZERO)
    charge = r2(total * fees.charge / _HUNDRED)
    if kind == "sell":
        vat = r2(charge * fees.vat / _HUNDRED)
        return Figures(total, total, charge_fee=charge, charges_vat=vat, paid_total=total - charge - vat)
    minting = sum((compute_minting_price(line.price, fees) * line.amount for line in lines), ZERO)
    storage = r2(total * fees.storage / _HUNDRED)
    vat = r2((charge + minting + storage) * fees.vat / _HUNDRED)
    paid = total + charge + minting + storage + vat
    return Figures(total, total, ZERO, charge, minting, storage, vat, paid)


def compute_card_commission(total: Decimal) -> Decimal:
    """Return `payment.comission`: 2.88 percent of `total`, not part of `paid_total`."""
    return r2(total * _CARD_COMMISSION / _HUNDRED)


@frozen
class Metal:
    """An item currency: a metal that is priced by the gram.

    `spot` is the price of a gram at tick 0 of every walk, `quantum` the unit of its last decimal.
    """

    currency_id: int
    name: str
    metal_type: str
    code: str
    spot: Decimal
    quantum: Decimal


GOLD = Metal(1000013, "Dirham Gold", "gold", "GAU", Decimal("586.48"), Decimal("0.01"))
SILVER = Metal(1000019, "Dirham Silver", "silver", "XAG", Decimal("9.8218"), Decimal("0.0001"))
METALS = (GOLD, SILVER)


@frozen
class Quote:
    """Prices per gram at one moment: the customer buys at `buy` and sells at `sell`.

    Working assumption: 1 % above and below `spot`, rounded to 2 decimals, as in the samples.
    """

    spot: Decimal
    buy: Decimal
    sell: Decimal

    def piece(self, kind: OrderKind, weight: Decimal) -> Decimal:
        """Return the price of a piece of `weight` grams; 0 for a delivery."""
        if kind == "delivery":
            return ZERO
        return r2((self.buy if kind == "buy" else self.sell) * weight)


_WAVES = ((5, 120), (60, 150), (900, 700), (14_400, 3_000), (172_800, 12_000), (2_592_000, 40_000))
"""The waves that add up to the walk: seconds between support points, and amplitude in millionths of the price."""


class PriceWalk:
    """Metal prices over time: a pure function of seed, metal and tick.

    Each wave interpolates linearly between seeded support points. So every moment, past or future, takes the same time
    to compute, and history and current prices agree. At tick 0 the price is the metal's `spot`, with every seed.

    Args:
        seed: selects the walk.
        anchor: time of tick 0, seconds since 1970.
        interval: seconds from one tick to the next; the price changes only at a tick.
    """

    def __init__(self, seed: int, anchor: float, interval: float = 5.0) -> None:
        if interval <= 0:
            raise ValueError("interval must be positive")
        self.seed = seed
        self._anchor = round(anchor * 1_000_000)
        self._interval = max(1, round(interval * 1_000_000))
        self.at: Callable[[Metal, int], Quote] = lru_cache(maxsize=4096)(self._at)

    def tick(self, moment: int) -> int:
        """Return the number of the tick at a moment, microseconds since 1970."""
        return (moment - self._anchor) // self._interval

    def tick_start(self, tick: int) -> int:
        """Return the moment at which a tick starts."""
        return self._anchor + tick * self._interval

    def quote(self, metal: Metal, moment: int) -> Quote:
        """Return the prices at a moment, microseconds since 1970."""
        return self.at(metal, self.tick(moment))

    def _at(self, metal: Metal, tick: int) -> Quote:
        # A tick is five seconds of the walk for every interval, so that prices also move visibly at short intervals.
        seconds = tick * 5
        millionths = sum(self._wave(metal, n, seconds) - self._wave(metal, n, 0) for n in range(len(_WAVES)))
        factor = Decimal(1_000_000 + max(-900_000, millionths)) / 1_000_000
        spot = (metal.spot * factor).quantize(metal.quantum, ROUND_HALF_UP)
        return Quote(spot, r2(spot * _SPREAD_BUY), r2(spot * _SPREAD_SELL))

    def _wave(self, metal: Metal, wave: int, seconds: int) -> int:
        """Return the value of one wave, in millionths of the price."""
        period, amplitude = _WAVES[wave]
        point, offset = divmod(seconds, period)
        low, high = (self._support(metal, wave, point + step, amplitude) for step in (0, 1))
        return low + (high - low) * offset // period

    def _support(self, metal: Metal, wave: int, point: int, amplitude: int) -> int:
        name = f"{self.seed}/{metal.currency_id}/{wave}/{point}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) % (2 * amplitude + 1) - amplitude
