"""Copies and pickles of errors, some of which have a basket or an order as an attribute."""

from __future__ import annotations

import copy
from typing import Any, Self, cast

import attrs

__all__ = ["CopiesWithoutPersonalData"]


class CopiesWithoutPersonalData:
    """Mixin of errors: a pickled error has its models without personal data, a copy in memory keeps them as they are.

    Pickled exceptions are stored, for instance by task queues.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        from minted_connect.models import Basket, Order  # noqa: PLC0415 - models import the errors
        from minted_connect.models.masking import without_personal_data  # noqa: PLC0415

        state = {
            name: without_personal_data(value) if isinstance(value, Basket | Order) else value
            for name, value in vars(self).items()
        }
        return type(self), tuple(state[name] for name in _init_fields(self)), state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        duplicate = type(self)(*(getattr(self, name) for name in _init_fields(self)))
        vars(duplicate).update(copy.deepcopy(vars(self), memo))
        return duplicate

    def __copy__(self) -> Self:
        return self.__deepcopy__({})


def _init_fields(error: object) -> list[str]:
    return [field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(error))) if field.init]
