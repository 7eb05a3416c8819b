"""Keys of fields in JSON: a field has its own name unless its metadata holds another key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_origin

import attrs

__all__ = ["NOT_IN_JSON", "camel_case_keys", "is_in_json", "json_key", "json_name"]

_METADATA_KEY: Final = "minted_connect.json_key"
_NOT_IN_JSON_KEY: Final = "minted_connect.not_in_json"

NOT_IN_JSON: Final[Mapping[str, bool]] = {_NOT_IN_JSON_KEY: True}
"""Metadata of a field that is compared by `==`, but has no key in JSON."""


def json_key(key: str) -> Mapping[str, str]:
    """Return the metadata of a field with this key in JSON."""
    return {_METADATA_KEY: key}


def is_in_json(field: attrs.Attribute[Any]) -> bool:
    """Return whether a field has a key in JSON. Fields that are not compared by `==` have none."""
    return bool(field.eq) and not field.metadata.get(_NOT_IN_JSON_KEY)


def camel_case_keys(_class: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Give each field its name in camelCase as key; for the argument `field_transformer` of attrs."""
    return [field.evolve(metadata={**field.metadata, **json_key(_camel_case(field.name))}) for field in fields]


def json_name(class_: Any, name: str) -> str:
    """Return the key of a field of a model in JSON."""
    fields = attrs.fields_dict(get_origin(class_) or class_)
    return fields[name].metadata.get(_METADATA_KEY, name) if name in fields else name


def _camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join([word.capitalize() for word in rest])
