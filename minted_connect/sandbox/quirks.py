"""Responses in the JSON shapes that Laravel and MySQL write instead of the documented ones.

Money, numbers of pieces, `success` and the seconds of a price lock keep their documented types.
"""

import re
from collections.abc import Mapping
from typing import cast

from attrs import evolve

from .router import Response

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PAGE_COUNTS = frozenset({"current_page", "last_page", "per_page", "total", "from", "to"})
_OBJECTS = frozenset(
    {"basecurrency", "billingaddress", "category", "customer", "data", "delivery", "details", "payment", "pricefix"}
    | {"shippingaddress"}
)
_NUMBERS = frozenset({"currency_rate", "currency_total"})


def apply_laravel(response: Response) -> Response:
    """Return a response with the shapes of Laravel and MySQL.

    Ids and page counts become strings, flags become 0 and 1, and dates get a midnight. Null becomes `[]` for an object,
    a zero date for a date, and `""` for an id or a text. A byte order mark precedes the JSON.
    """
    envelope = dict(response.envelope)
    envelope["data"] = _reshape("data", envelope["data"], is_count=False)
    return evolve(response, envelope=envelope, has_bom=True)


def _reshape(name: str, value: object, *, is_count: bool) -> object:
    if isinstance(value, dict):
        fields = cast("Mapping[str, object]", value)
        is_page = "current_page" in fields
        return {key: _reshape(key, item, is_count=is_page and key in _PAGE_COUNTS) for key, item in fields.items()}
    if isinstance(value, list | tuple):
        return [_reshape("", item, is_count=False) for item in cast("list[object]", value)]
    if value is None:
        return _null(name)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and (is_count or name == "id" or name.endswith(("_id", "Id"))):
        return str(value)
    if isinstance(value, str) and _is_date(name) and _DAY.fullmatch(value):
        return f"{value}T00:00:00.000000Z"
    return value


def _null(name: str) -> object:
    if name in _OBJECTS:
        return []
    if _is_date(name):
        return "0000-00-00"
    if name.endswith("_at"):
        return "0000-00-00 00:00:00"
    return None if not name or name in _NUMBERS else ""


def _is_date(name: str) -> bool:
    return name == "birthdate" or name.endswith("_date")
