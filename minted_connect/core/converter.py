"""Structures models from JSON data, and unstructures models to JSON data, with cattrs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import islice, repeat
from typing import Any, Final, TypeVar, cast

from minted_connect.core import converter_hooks
from minted_connect.core.converter_hooks import make_converter
from minted_connect.models import Basket

__all__ = ["Unfit", "structure", "to_wire"]

T = TypeVar("T")

_MOST_PROBLEMS: Final = 20
_NOTHING: Final[tuple[Any, ...]] = (None, [])


class Unfit(ValueError):
    """The data is not of the promised shape."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems
        """What is wrong, each with its path (`data.items[0].sku: required field missing`), without values."""

    def __str__(self) -> str:
        return "; ".join(self.problems)


@cache
def _hook(type_: Any) -> Callable[[Any, Any], Any]:
    return make_converter().get_structure_hook(type_)


def structure(
    data: Any, type_: type[T], *, elapsed: Callable[[], float] | None = None, sent_at: float | None = None
) -> T:
    """Make a model, a `tuple[Model, ...]` or a `Page[Model]` out of parsed JSON; unknown keys stay in `raw`.

    Args:
        data: What `loads` returned, or its ``data``.
        type_: What to make of it.
        elapsed: The client's clock that runs on while the machine sleeps; stamps the price lock of a basket.
        sent_at: When the request went out; without it the lock is stamped with now.

    Raises:
        Unfit: the data is not of that shape.
    """
    try:
        made = _hook(cast("Any", type_))(data, type_)
    except Exception:  # noqa: BLE001 - whatever went wrong, the detailed pass names it
        raise Unfit(_problems(data, type_)) from None
    if elapsed is not None and isinstance(made, Basket) and made.price_fix is not None:
        # Frozen from here on; `attrs.evolve` would build both objects a second time.
        object.__setattr__(made.price_fix, "received_at", elapsed() if sent_at is None else sent_at)
        object.__setattr__(made.price_fix, "elapsed", elapsed)
    return cast("T", made)


def _problems(data: Any, type_: Any) -> tuple[str, ...]:
    try:
        make_converter(detailed=True).structure(data, type_)
    except Exception as error:  # noqa: BLE001 - foreign exceptions are explained too, without their texts
        return tuple(islice(converter_hooks.explain(error, "data"), _MOST_PROBLEMS))
    return ("data: not of the promised shape",)


def to_wire(model: Any) -> Any:
    """Return a model, or a sequence of models, as JSON-ready data with the vendor's names, for `dumps`.

    A model that was received keeps the keys it came with: unknown ones are carried along, and what was absent
    stays absent unless it has been given a value.
    """
    wire = make_converter().unstructure(model)
    if isinstance(model, list | tuple):
        received: Any = [getattr(item, "raw", None) or None for item in cast("Iterable[Any]", model)]
    else:
        received = getattr(model, "raw", None) or None
    return _overlaid(wire, received)


def _overlaid(wire: Any, received: Any) -> Any:
    """Lay what a model says over what it was made of."""
    if isinstance(wire, dict):
        now, was = cast("dict[str, Any]", wire), cast("Mapping[str, Any]", received)
        if not isinstance(received, Mapping):
            return {name: _overlaid(value, None) for name, value in now.items()}
        said = {name: _overlaid(now[name], was.get(name)) for name in now if name in was or now[name] not in _NOTHING}
        return {**was, **said}
    if isinstance(wire, list | tuple):
        rows, old = cast("list[Any]", wire), cast("list[Any]", received)
        same = isinstance(received, list) and len(old) == len(rows)
        return [_overlaid(row, was) for row, was in zip(rows, old if same else repeat(None), strict=False)]
    return wire
