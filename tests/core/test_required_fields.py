"""A null in place of a required value is reported as a problem at its path, for each type of value."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

import attrs
import pytest

from minted_connect.core.converter import StructureError, structure
from minted_connect.core.exact_json import loads
from minted_connect.core.model_decoder import json_name
from minted_connect.models import Basket, Customer, Invoice, Order, Rate, RatePoint
from tests.support.strategies import SAMPLES

RESPONSES: dict[str, Any] = {
    "complete_delivery.response": Order,
    "currency_rates.response.assumed": tuple[Rate, ...],
    "get_customer.response": Customer,
    "get_order_invoice.response.assumed": Invoice,
    "rate_history.response.assumed": tuple[RatePoint, ...],
    "update_basket_item.response": Basket,
}


def load(name: str) -> Any:
    return loads((SAMPLES / f"{name}.json").read_bytes())["data"]


def required_places(data: Any, type_: Any, path: str = "data") -> Iterator[tuple[Any, str, str]]:
    """Yield the object, key and path of each required value in `data` that may not be null."""
    if isinstance(data, list):
        for index, row in enumerate(data):
            yield from required_places(row, get_args(type_)[0], f"{path}[{index}]")
        return
    model = next((part for part in (type_, *get_args(type_)) if attrs.has(part)), None)
    if model is None or not isinstance(data, dict):
        return
    for field in attrs.fields(attrs.resolve_types(model)):
        name = json_name(model, field.name)
        if field.default is attrs.NOTHING and NoneType not in get_args(field.type):
            yield data, name, f"{path}.{name}"
        yield from required_places(data.get(name), field.type, f"{path}.{name}")


@pytest.mark.requirement(38)
@pytest.mark.parametrize("name", RESPONSES)
def test_null_for_required_value_is_reported_with_its_path(name: str):
    data, type_ = load(name), RESPONSES[name]
    places = list(required_places(data, type_))
    assert places
    for parent, key, path in places:
        value, parent[key] = parent[key], None
        with pytest.raises(StructureError) as caught:
            structure(data, type_)
        assert [problem.split(": ")[0] for problem in caught.value.problems] == [path]
        parent[key] = value
    assert structure(data, type_)
