"""Copies and pickles of errors, some of which have a basket or an order as an attribute."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    # attrs passes the values of all fields to `BaseException.__init__`, which stores them as `args`.
    _Base = Exception
else:
    _Base = object

__all__ = ["CopiesWithoutPersonalData"]


class CopiesWithoutPersonalData(_Base):
    """Mixin of errors: a pickled error has its models without personal data, a copy in memory keeps them as they are.

    Pickled exceptions are stored, for instance by task queues.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: _without_personal_data(value) for name, value in vars(self).items()}
        return type(self), tuple(_without_personal_data(value) for value in self.args), state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        duplicate = type(self)(*self.args)
        vars(duplicate).update(copy.deepcopy(vars(self), memo))
        return duplicate

    def __copy__(self) -> Self:
        return self.__deepcopy__({})


def _without_personal_data(value: Any) -> Any:
    from minted_connect.models import Basket, Order  # noqa: PLC0415 - models import the errors
    from minted_connect.models.masking import without_personal_data  # noqa: PLC0415

    return without_personal_data(value) if isinstance(value, Basket | Order) else value
