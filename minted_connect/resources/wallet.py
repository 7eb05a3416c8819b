"""Wallets: the holdings of customers."""

from __future__ import annotations

from collections.abc import Sequence

from minted_connect import validation
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.models import Holding, MetalType
from minted_connect.resources.base import Resource

__all__ = ["AsyncWallet"]


class AsyncWallet(Resource):
    """Wallets of customers."""

    async def balance(
        self,
        customer_id: str,
        *,
        metals: MetalType | str | Sequence[MetalType | str] | None = None,
        deliverable: bool | None = None,
    ) -> tuple[Holding, ...]:
        """Return the holdings of a customer, one row for each product.

        Args:
            customer_id: The customer.
            metals: Only holdings of these metals; None: all.
            deliverable: True: only holdings that can be shipped now. False is sent, too, but its effect is not
                documented. None: no filter.

        Source: Balance / Wallet (api-27130593, 2026-01-23): partly documented (the request and two row keys); the
        other keys, and the effect of `is_deliverable=false`, are inferred (S20).
        """
        query = [("external_customer_id", validation.customer_id(customer_id))]
        if metals is not None:
            query.append(("metal_type", validation.comma_separated("metals", metals)))
        if deliverable is not None:
            query.append(("is_deliverable", validation.boolean("deliverable", deliverable)))
        return await self._api.send(Request(OPERATIONS["wallet.balance"], query=query), tuple[Holding, ...])
