"""The wallets of customers at one moment, and what their orders do not explain between two moments.

Assumed, because the vendor does not document it (S20): a wallet counts pieces; an order adds its pieces to the wallet
or takes them out at once, and the cancellation of an order reverses that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Self

import anyio
import attrs

from minted_connect.audit.report import Finding, FindingKind, Unread
from minted_connect.audit.rows import Orders, read_orders
from minted_connect.client import AsyncMintedConnect
from minted_connect.completion.order_match import pieces_by_sku
from minted_connect.errors import ConfigurationError, MintedConnectError
from minted_connect.models import Holding, OrderKind

__all__ = ["CustomerWallet", "WalletSnapshot", "compare_wallets", "read_wallets"]

_FORMAT: Final = "minted-connect wallets 1"
_CONCURRENCY: Final = 4
_ATTEMPTS: Final = 3
"""Number of times that a wallet is read if orders of the customer are made meanwhile."""


@attrs.frozen
class CustomerWallet:
    """The pieces in a wallet, and those that each order has added (or taken out, below zero), by sku."""

    pieces: Mapping[str, Decimal]
    orders: Mapping[int, Mapping[str, int]]


@attrs.frozen
class WalletSnapshot:
    """The wallets of some customers at one moment."""

    taken_at: datetime
    """Time of the snapshot, by the client's clock, timezone-aware."""
    account: str = attrs.field(repr=False)
    """Hash of server and account."""
    wallets: Mapping[str, CustomerWallet] = attrs.field(factory=dict[str, CustomerWallet], repr=False)
    """By external id of the customer."""

    def dumps(self) -> str:
        """Return the snapshot as JSON. It contains the ids of customers."""
        wallets = {
            customer: {
                "pieces": {sku: str(amount) for sku, amount in wallet.pieces.items()},
                "orders": {str(number): {**pieces} for number, pieces in wallet.orders.items()},
            }
            for customer, wallet in self.wallets.items()
        }
        document = {"format": _FORMAT, "taken_at": self.taken_at.isoformat(), "account": self.account}
        return json.dumps({**document, "wallets": wallets}, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the snapshot of a JSON document that `dumps` has made.

        Raises:
            ConfigurationError: if it is something else.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            if document["format"] == _FORMAT:
                wallets = {
                    str(customer): CustomerWallet(
                        {str(sku): Decimal(amount) for sku, amount in wallet["pieces"].items()},
                        {
                            int(number): {str(sku): int(pieces) for sku, pieces in changes.items()}
                            for number, changes in wallet["orders"].items()
                        },
                    )
                    for customer, wallet in document["wallets"].items()
                }
                return cls(datetime.fromisoformat(document["taken_at"]), str(document["account"]), wallets)
        except (ValueError, TypeError, LookupError, AttributeError, InvalidOperation):
            pass
        # Outside `except`: the message of the original error may quote values of the file.
        raise ConfigurationError("snapshot: is not a snapshot of wallets (minted audit --snapshot)")


async def read_wallets(
    minted: AsyncMintedConnect, customers: Iterable[str], taken_at: datetime, account: str
) -> tuple[WalletSnapshot, list[Unread]]:
    """Return the wallets of some customers, and those that could not be read."""
    limiter = anyio.CapacityLimiter(_CONCURRENCY)
    wallets: dict[str, CustomerWallet] = {}
    unread: list[Unread] = []

    async def read(customer: str) -> None:
        async with limiter:
            try:
                wallets[customer] = await _read_wallet(minted, customer)
            except _WalletError as error:
                unread.append(Unread("wallets", str(error), customer))
            except MintedConnectError as error:
                unread.append(Unread("wallets", f"the wallet of a customer: {error}", customer))

    async with anyio.create_task_group() as tasks:
        for customer in customers:
            tasks.start_soon(read, customer)
    ordered = {customer: wallets[customer] for customer in sorted(wallets)}
    return WalletSnapshot(taken_at, account, ordered), unread


class _WalletError(Exception):
    """Raised if a wallet or the orders behind it cannot be used."""


async def _read_wallet(minted: AsyncMintedConnect, customer: str) -> CustomerWallet:
    """Read a wallet between two reads of the customer's orders, which must agree."""
    orders = _changes(await read_orders(minted, customer_id=customer))
    for _ in range(_ATTEMPTS):
        pieces = _pieces(await minted.wallet.balance(customer))
        before, orders = orders, _changes(await read_orders(minted, customer_id=customer))
        if orders == before:
            return CustomerWallet(pieces, orders)
    raise _WalletError("the wallet of a customer: orders were made while it was read")


def _changes(orders: Orders) -> dict[int, Mapping[str, int]]:
    """Return the pieces that each order has added to the wallet; none for a failed order."""
    if orders.unread:
        raise _WalletError(f"the orders of a customer: {orders.unread[0].problem}")
    changes: dict[int, Mapping[str, int]] = {}
    for row in orders.rows:
        order = row.order
        assert order is not None  # otherwise it would be in `unread`
        if order.kind is None:
            raise _WalletError(f"order {order.id} is of an unknown kind")
        sign = 1 if order.kind is OrderKind.BUY else -1
        pieces = {} if order.is_failed else {sku: sign * number for sku, number in pieces_by_sku(order).items()}
        changes[order.id] = pieces
    return changes


def _pieces(holdings: Iterable[Holding]) -> dict[str, Decimal]:
    amounts: dict[str, Decimal] = {}
    for holding in holdings:
        if holding.sku is None or holding.amount is None:
            raise _WalletError("the wallet of a customer: a row has no sku or no amount")
        amounts[holding.sku] = amounts.get(holding.sku, Decimal(0)) + holding.amount
    return {sku: amount for sku, amount in sorted(amounts.items()) if amount}


def compare_wallets(before: WalletSnapshot, after: WalletSnapshot) -> Iterator[Finding]:
    """Yield the changes of wallets that the orders between two snapshots do not explain."""
    for customer in sorted(before.wallets.keys() & after.wallets.keys()):
        earlier, later = before.wallets[customer], after.wallets[customer]
        numbers = sorted(
            number
            for number in earlier.orders.keys() | later.orders.keys()
            if earlier.orders.get(number, {}) != later.orders.get(number, {})
        )
        changes: dict[str, int] = {}
        for sign, orders in ((1, later.orders), (-1, earlier.orders)):
            for number in numbers:
                for sku, pieces in orders.get(number, {}).items():
                    changes[sku] = changes.get(sku, 0) + sign * pieces
        texts: list[str] = []
        for sku in sorted({*earlier.pieces, *later.pieces, *changes}):
            old, change, new = (
                earlier.pieces.get(sku, Decimal(0)),
                changes.get(sku, 0),
                later.pieces.get(sku, Decimal(0)),
            )
            if old + change != new:
                texts.append(f"{sku} {old} before, {change:+} by orders, {new} now")
        if texts:
            text = f"the orders do not explain the wallet of a customer: {'; '.join(texts)}"
            yield Finding(FindingKind.WALLET_DIFFERS, text, (), tuple(numbers), customer)
