"""Base class of the resources, and the check of the owner of a response.

To add an operation, follow the guide `guides/adding-an-operation.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

from minted_connect.core.api_client import ApiClient
from minted_connect.models import Customer

__all__ = ["Resource", "owner_problems"]


class Resource:
    """One group of operations."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api


def owner_problems(customer_id: str, found: Mapping[str, Customer]) -> list[str]:
    """Return the problems of a response that is about other customers than the requested one.

    A proxy or cache may mix up responses, and a server that misreads a filter returns the rows of all customers.

    Args:
        customer_id: The requested customer.
        found: The customers in the response, by their path.
    """
    return [
        f"{path}.external_id: is another customer's"
        for path, customer in found.items()
        if customer.external_id != customer_id
    ]
