"""Builds pydantic models with the fields of the SDK's models, for peers that decode with pydantic."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Union, get_args, get_origin

import attrs

from minted_connect.models.json_keys import json_name

__all__ = ["pydantic_of"]


@cache
def pydantic_of(class_: Any) -> Any:
    """Return a pydantic model with the fields of an attrs class."""
    import pydantic  # noqa: PLC0415 - optional

    fields: dict[str, Any] = {}
    for field in attrs.fields(attrs.resolve_types(class_)):
        if field.eq:
            alias = json_name(class_, field.name)
            default = ... if field.default is attrs.NOTHING else _default(field.default)
            fields[field.name] = (_mirrored(field.type), pydantic.Field(default, alias=alias))
    return pydantic.create_model(class_.__name__, __config__=pydantic.ConfigDict(frozen=True), **fields)


def _default(default: Any) -> Any:
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _mirrored(type_: Any) -> Any:
    if attrs.has(type_):
        return pydantic_of(type_)
    parts = tuple(_mirrored(part) for part in get_args(type_))
    if get_origin(type_) in {Union, types.UnionType}:
        return Union[parts]  # noqa: UP007 - parts are known at run time only
    if get_origin(type_) is tuple:
        return tuple[parts]
    return type_
