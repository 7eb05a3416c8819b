"""Prices and fees: a seeded walk of the metal prices, and the arithmetic of walletable.md section 4.

Everything is exact: integers inside the walk, `Decimal` outside. Money is AED, weights are grams.
"""

import hashlib
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Literal

from attrs import evolve, field, frozen

Kind = Literal["buy", "sell", "delivery"]

ZERO = Decimal(0)
_CENT = Decimal("0.01")
_HUNDRED = Decimal(100)
_CARD_COMMISSION = Decimal("2.88")  # percent; section 4, from two Feb 2026 examples
_SPREAD_BUY = Decimal("1.01")
_SPREAD_SELL = Decimal("0.99")


def r2(value: Decimal) -> Decimal:
    """Round to cents, half up (no vendor example is a tie: half-up is assumed)."""
    return value.quantize(_CENT, ROUND_HALF_UP)


@frozen
class FeeSchedule:
    """What the partner charges. The defaults are those of the Feb 2026 examples.

    Attributes:
        charge: service fee, percent of `total`.
        storage: storage fee of a buy, percent of `total`.
        vat: percent of the fees.
        minting: percent of the price of one piece, rounded per piece.
        delivery_cost: AED per delivery.
    """

    charge: Decimal = field(default=Decimal("1.75"), converter=Decimal)
    storage: Decimal = field(default=Decimal("0.3"), converter=Decimal)
    vat: Decimal = field(default=Decimal(5), converter=Decimal)
    minting: Decimal = field(default=Decimal(2), converter=Decimal)
    delivery_cost: Decimal = field(default=Decimal(3), converter=Decimal)

    @classmethod
    def march_2026(cls) -> "FeeSchedule":
        """Return the rates of the Mar 2026 examples."""
        return cls(charge=Decimal(10), storage=Decimal(20), vat=Decimal(5), minting=Decimal(5))

    def without_storage(self) -> "FeeSchedule":
        """Return the same rates with no storage fee."""
        return evolve(self, storage=ZERO)


@frozen
class Line:
    """A line as far as fees care: the price of one piece (AED), and how many pieces."""

    price: Decimal
    amount: int

    @property
    def total(self) -> Decimal:
        """The price of all pieces."""
        return self.price * self.amount


@frozen
class Figures:
    """The money of a basket or order, AED. Names and meanings as in walletable.md section 3."""

    price: Decimal = ZERO
    total: Decimal = ZERO
    delivery_cost: Decimal = ZERO
    charge_fee: Decimal = ZERO
    minting_fee: Decimal = ZERO
    storage_fee: Decimal = ZERO
    charges_vat: Decimal = ZERO
    paid_total: Decimal = ZERO


def minting_price(price: Decimal, rates: FeeSchedule) -> Decimal:
    """Return the minting cost of one piece, which is where the vendor rounds."""
    return r2(price * rates.minting / _HUNDRED)


def fees(kind: Kind, lines: Iterable[Line], rates: FeeSchedule) -> Figures:
    """Compute the figures of a basket; section 4 of walletable.md (inferred formulas, right to the cent).

    An empty basket costs nothing, also a delivery.
    """
    lines = tuple(lines)
    if not lines:
        return Figures()
    if kind == "delivery":
        cost = rates.delivery_cost
        vat = r2(cost * rates.vat / _HUNDRED)
        return Figures(total=cost, delivery_cost=cost, charges_vat=vat, paid_total=cost + vat)
    total = sum((line.total for line in lines), ZERO)
    charge = r2(total * rates.charge / _HUNDRED)
    if kind == "sell":
        vat = r2(charge * rates.vat / _HUNDRED)
        return Figures(total, total, charge_fee=charge, charges_vat=vat, paid_total=total - charge - vat)
    minting = sum((minting_price(line.price, rates) * line.amount for line in lines), ZERO)
    storage = r2(total * rates.storage / _HUNDRED)
    vat = r2((charge + minting + storage) * rates.vat / _HUNDRED)
    paid = total + charge + minting + storage + vat
    return Figures(total, total, ZERO, charge, minting, storage, vat, paid)


def card_commission(total: Decimal) -> Decimal:
    """Return `payment.comission`: 2.88 percent of `total`; it is not part of `paid_total`."""
    return r2(total * _CARD_COMMISSION / _HUNDRED)


@frozen
class Metal:
    """An item currency: metal that is priced by the gram (walletable.md section 5).

    `spot` is the AED price of a gram at the start of every walk, `quantum` its last decimal.
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
    """AED per gram at one moment: the customer buys at `buy` and sells at `sell`.

    Working assumption (unverified): 1 % each way, rounded to cents, as in the samples.
    """

    spot: Decimal
    buy: Decimal
    sell: Decimal

    def piece(self, kind: Kind, weight: Decimal) -> Decimal:
        """Return the price of a piece of `weight` grams: `r2(buy_price * product_weight)`, 0 on a delivery."""
        if kind == "delivery":
            return ZERO
        return r2((self.buy if kind == "buy" else self.sell) * weight)


_WAVES = ((5, 120), (60, 150), (900, 700), (14_400, 3_000), (172_800, 12_000), (2_592_000, 40_000))
"""The walk is a sum of these: seconds between support points, and how far they reach, in millionths of the price."""


class PriceWalk:
    """Metal prices that wander; a pure function of (seed, metal, tick).

    Between the seeded support points of each wave the price moves in a straight line, so any moment of the past
    or the future costs the same to look up, and history and current rates cannot disagree. Tick 0 is the moment
    the walk is anchored at, where every seed quotes the metal's own `spot`.

    Args:
        seed: another seed is another walk.
        anchor: seconds since 1970 of tick 0.
        interval: seconds between ticks; the price stands still in between.
    """

    def __init__(self, seed: int, anchor: float, interval: float = 5.0) -> None:
        if interval <= 0:
            raise ValueError("interval must be positive")
        self.seed = seed
        self._anchor = round(anchor * 1_000_000)
        self._interval = max(1, round(interval * 1_000_000))
        self.at: Callable[[Metal, int], Quote] = lru_cache(maxsize=4096)(self._at)

    def tick(self, moment: int) -> int:
        """Return the number of the tick that rules at `moment` (microseconds since 1970)."""
        return (moment - self._anchor) // self._interval

    def started(self, tick: int) -> int:
        """Return when a tick started, microseconds since 1970."""
        return self._anchor + tick * self._interval

    def quote(self, metal: Metal, moment: int) -> Quote:
        """Return the prices at `moment` (microseconds since 1970)."""
        return self.at(metal, self.tick(moment))

    def _at(self, metal: Metal, tick: int) -> Quote:
        # A tick is worth five seconds of wandering, whatever the interval: sped-up prices move visibly.
        seconds = tick * 5
        millionths = sum(self._wave(metal, n, seconds) - self._wave(metal, n, 0) for n in range(len(_WAVES)))
        factor = Decimal(1_000_000 + max(-900_000, millionths)) / 1_000_000
        spot = (metal.spot * factor).quantize(metal.quantum, ROUND_HALF_UP)
        return Quote(spot, r2(spot * _SPREAD_BUY), r2(spot * _SPREAD_SELL))

    def _wave(self, metal: Metal, wave: int, seconds: int) -> int:
        """Return the height of one wave, in millionths of the price."""
        period, reach = _WAVES[wave]
        point, offset = divmod(seconds, period)
        low, high = (self._support(metal, wave, point + step, reach) for step in (0, 1))
        return low + (high - low) * offset // period

    def _support(self, metal: Metal, wave: int, point: int, reach: int) -> int:
        name = f"{self.seed}/{metal.currency_id}/{wave}/{point}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) % (2 * reach + 1) - reach
