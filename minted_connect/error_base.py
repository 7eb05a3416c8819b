"""The base class of all errors: attrs classes that are pickled with care, as some have a basket or an order."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

import attrs

from minted_connect.request_info import RequestInfo

if TYPE_CHECKING:
    # attrs passes the values of all fields to `BaseException.__init__`, which stores them as `args`.
    _Base = Exception
else:
    _Base = object

__all__ = ["MintedConnectError", "error_class"]

_T = TypeVar("_T")


@dataclass_transform(eq_default=False, field_specifiers=(attrs.field,))
def error_class(cls: type[_T]) -> type[_T]:
    """Make an attrs class of an error."""
    # `slots=False`: a slotted exception cannot also inherit TimeoutError (layout conflict).
    # `repr=False`: attrs would print every field, bodies and server texts included.
    return attrs.define(eq=False, slots=False, repr=False)(cls)


class _CopiesWithoutPersonalData(_Base):
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


@error_class
class MintedConnectError(_CopiesWithoutPersonalData, Exception):
    """Base class of all errors of this library."""

    _may_succeed_later: ClassVar[bool] = False
    """Whether the same call may succeed when it is repeated."""
    reason: str
    """The cause and the remedy, without secrets and personal data."""
    request: RequestInfo | None = attrs.field(default=None, init=False)
    """The request that failed; None if the error belongs to no single request."""
    attempts: int = attrs.field(default=1, init=False)
    """Number of attempts; 1 if the error belongs to no single request."""
    elapsed: float = attrs.field(default=0.0, init=False)
    """Seconds from the start of the call to the failure."""

    @property
    def method(self) -> str:
        """HTTP method of the request, or an empty string."""
        return self.request.method if self.request else ""

    @property
    def path(self) -> str:
        """Path template of the request, or an empty string."""
        return self.request.route if self.request else ""

    @property
    def safe_to_retry(self) -> bool:
        """Whether repeating the same call may succeed, and cannot execute it twice."""
        is_repeatable = self.request is not None and self.request.effect.is_idempotent
        return self._may_succeed_later and is_repeatable

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def _without_personal_data(value: Any) -> Any:
    from minted_connect.models import Basket, Order  # noqa: PLC0415 - models import the errors
    from minted_connect.models.masking import without_personal_data  # noqa: PLC0415

    return without_personal_data(value) if isinstance(value, Basket | Order) else value
