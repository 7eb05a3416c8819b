"""Structures models from JSON data, and unstructures models to JSON data, with cattrs.

These are the functions to call; `model_decoder` fills the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import attrs

from minted_connect.core import model_decoder
from minted_connect.core.model_decoder import as_rows, make_converter
from minted_connect.models import Page, UnreadableRow
from minted_connect.models.json_keys import json_name

__all__ = ["StructureError", "prepare", "structure", "unstructure"]

T = TypeVar("T")

_MAX_PROBLEMS: Final = 20
_MAX_ROW_PROBLEMS: Final = 3
_EMPTY: Final[tuple[Any, ...]] = (None, [])


class StructureError(ValueError):
    """The data does not match the schema of the model."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems
        """Each mismatch with its path (`data.items[0].sku: required field missing`), without values."""

    def __str__(self) -> str:
        return "; ".join(self.problems)


@cache
def _hook(type_: Any) -> Callable[[Any, Any], Any]:
    return make_converter().get_structure_hook(type_)


def prepare(type_: Any) -> None:
    """Make the function that structures a type, which the first response of the type would make otherwise."""
    _hook(type_)


def structure(
    data: Any, type_: type[T], *, elapsed: Callable[[], float] | None = None, sent_at: float | None = None
) -> T:
    """Structure a model, a `tuple[Model, ...]` or a `Page[Model]` from parsed JSON. Unknown keys stay in `raw`.

    The rows of a page that do not match the model are in `Page.unreadable`.

    Args:
        data: A document that `loads` returned, or its ``data``.
        type_: The type of the result.
        elapsed: The client's elapsed clock, by which the price lock of a basket measures its age.
        sent_at: When the request was sent, on that clock; by default the current time. The price lock starts there.

    Raises:
        StructureError: if the data does not match the type.
    """
    try:
        model = _hook(cast("Any", type_))(data, type_)
    except Exception:  # noqa: BLE001 - the detailed converter finds the reason
        model = _structure_odd_page(data, type_) if get_origin(type_) is Page else None
        if model is None:
            raise StructureError(_find_problems(data, type_)) from None
    if elapsed is not None and (record_receipt := getattr(model, "_record_receipt", None)) is not None:
        record_receipt(elapsed() if sent_at is None else sent_at, elapsed)
    return cast("T", model)


def _structure_odd_page(data: Any, type_: Any) -> Page[Any] | None:
    """Structure a page row by row; return None if anything except rows is unreadable."""
    key = json_name(Page, "items")
    rows = as_rows(cast("Mapping[str, Any]", data).get(key)) if isinstance(data, Mapping) else None
    if rows is None:
        return None
    try:
        page: Page[Any] = _hook(type_)({**data, key: []}, type_)
    except Exception:  # noqa: BLE001 - the caller finds the reason
        return None
    (row_type,) = get_args(type_)
    items: list[Any] = []
    unreadable: list[UnreadableRow] = []
    for number, row in enumerate(rows):
        try:
            items.append(_hook(row_type)(row, row_type))
        except Exception:  # noqa: BLE001 - the detailed converter finds the reason
            path = f"data.{key}[{number}]"
            problems = _find_problems(row, row_type, path)
            unreadable.append(UnreadableRow(path, problems[:_MAX_ROW_PROBLEMS], row))
    return attrs.evolve(page, items=tuple(items), unreadable=tuple(unreadable), raw=data)


def _find_problems(data: Any, type_: Any, path: str = "data") -> tuple[str, ...]:
    try:
        make_converter(detailed=True).structure(data, type_)
    except Exception as error:  # noqa: BLE001 - foreign exceptions are reported too, without their texts
        return tuple(islice(model_decoder.describe_problems(error, path), _MAX_PROBLEMS))
    return (f"{path}: does not match the schema",)


def unstructure(model: Any) -> Any:
    """Return a model, or a sequence of models, as JSON data with the vendor's names, for `dumps`.

    A model that was structured from a response keeps the keys of that response: unknown keys are included, and missing
    keys stay missing unless their fields have been set.
    """
    data = make_converter().unstructure(model)
    if isinstance(model, list | tuple):
        received: Any = [getattr(item, "raw", None) or None for item in cast("Iterable[Any]", model)]
    else:
        received = getattr(model, "raw", None) or None
    return _merge(data, received)


def _merge(data: Any, received: Any) -> Any:
    """Merge the data of a model into the JSON from which the model was structured."""
    if isinstance(data, dict):
        new, old = cast("dict[str, Any]", data), cast("Mapping[str, Any]", received)
        if not isinstance(received, Mapping):
            return {name: _merge(value, None) for name, value in new.items()}
        kept = {name: _merge(new[name], old.get(name)) for name in new if name in old or new[name] not in _EMPTY}
        return {**old, **kept}
    if isinstance(data, list | tuple):
        rows, old_rows = cast("list[Any]", data), as_rows(received)
        if old_rows is None or len(old_rows) != len(rows):
            return [_merge(row, None) for row in rows]
        pairs = zip(rows, old_rows, strict=True)
        return [_merge(row, old_row) for row, old_row in pairs]
    return data
