"""`preload`: moves the work that the first call would do to the start of a process."""

from __future__ import annotations

import importlib
from typing import Final

from minted_connect.core.converter import prepare
from minted_connect.models import (
    Basket,
    Customer,
    Holding,
    Invoice,
    Order,
    Page,
    Product,
    Rate,
    RatePoint,
    Receipt,
)

__all__ = ["preload"]

_MODULES: Final = ("minted_connect.client", "minted_connect.blocking")
_TYPES: Final = (
    *(Basket, Customer, Invoice, Order, Receipt),
    *(Page[Order], Page[Product]),
    *(tuple[Holding, ...], tuple[Rate, ...], tuple[RatePoint, ...]),
)


def preload() -> None:
    """Import the clients and their dependencies, and build the functions that fill the models.

    Call it where a process starts and time costs little, such as in the module of a function that is frozen between its
    calls, or in a parent process before it forks. It opens nothing and starts no thread. Calling it again does nothing.
    """
    for module in _MODULES:
        importlib.import_module(module)
    for type_ in _TYPES:
        prepare(type_)
