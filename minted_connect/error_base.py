"""The basis of all errors: attrs classes that are copied and pickled with care, as some have a basket or an order."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform

import attrs

if TYPE_CHECKING:
    # attrs passes the values of all fields to `BaseException.__init__`, which stores them as `args`.
    _Base = Exception
else:
    _Base = object

__all__ = ["CopiesWithoutPersonalData", "error_class"]

_T = TypeVar("_T")


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def error_class(cls: type[_T]) -> type[_T]:
    """Make an attrs class of an error."""
    # `slots=False`: a slotted exception cannot also inherit TimeoutError (layout conflict).
    # `repr=False`: attrs would print every field, bodies and server texts included.
    return attrs.define(eq=False, slots=False, repr=False)(cls)


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
