"""Lets pydantic, and so FastAPI, use models as field types, arguments and responses.

pydantic calls `__get_pydantic_core_schema__` of a class; nothing here is imported before it does. Validation restores a
model from what `to_dict` returns, in either mode, and never converts a float to money. In JSON, money is a string.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Self, Union, get_args, get_origin

import attrs

from minted_connect.errors import InvalidInput
from minted_connect.models.masking import STARS

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

__all__ = ["add_pydantic_schema"]


class _Refused(str):
    """Takes the place of data that does not match, in texts of pydantic."""

    __slots__ = ("error",)

    def __new__(cls, error: InvalidInput) -> Self:
        """Return a text without the data."""
        refused = super().__new__(cls, STARS)
        refused.error = error
        return refused

    error: InvalidInput


def add_pydantic_schema(class_: type) -> None:
    """Give a model class the method that pydantic looks for."""
    type.__setattr__(class_, "__get_pydantic_core_schema__", classmethod(_get_core_schema))


def _get_core_schema(class_: Any, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    from pydantic_core import PydanticCustomError, core_schema  # noqa: PLC0415

    from minted_connect.serialization import from_dict, is_data  # noqa: PLC0415

    model = source if get_origin(source) is class_ else class_
    fields = [field for field in attrs.fields(attrs.resolve_types(class_)) if is_data(field)]

    def restore(value: Any) -> Any:
        try:
            return from_dict(model, value)
        except InvalidInput as error:
            return _Refused(error)

    def check(value: Any) -> Any:
        if isinstance(value, _Refused):
            reason = {"field": value.error.field, "rule": value.error.rule}
            raise PydanticCustomError("minted_connect", "{field}: {rule}", reason)
        return value

    def to_members(value: Any) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in fields}

    members = core_schema.typed_dict_schema(
        {
            field.name: core_schema.typed_dict_field(
                handler.generate_schema(_bind(field.type, model)), required=field.default is attrs.NOTHING
            )
            for field in fields
        },
        cls_name=class_.__name__,
    )
    # Two steps, because pydantic quotes the input of a step that raises, and the data may be personal.
    steps: list[CoreSchema] = [
        core_schema.no_info_plain_validator_function(restore, json_schema_input_schema=members),
        core_schema.no_info_plain_validator_function(check),
    ]
    return core_schema.chain_schema(
        steps,
        serialization=core_schema.plain_serializer_function_ser_schema(to_members, return_schema=members),
        ref=_reference(model),
        metadata={"pydantic_js_updates": {"title": class_.__name__}},
    )


def _bind(type_: Any, model: Any) -> Any:
    """Return the type of a field of a generic class (`tuple[T, ...]`) for its argument (`Page[Rate]`)."""
    parameters = getattr(type_, "__parameters__", ())
    return _with_text_for_money(type_[get_args(model) or (Any,)] if parameters else type_)


def _with_text_for_money(type_: Any) -> Any:
    """Return a type whose schema describes money as a string: its numbers would be read as floats."""
    from pydantic import WithJsonSchema  # noqa: PLC0415

    if type_ is Decimal:
        return Annotated[Decimal, WithJsonSchema({"type": "string", "format": "decimal"})]
    if Decimal in get_args(type_):
        return Union[tuple(map(_with_text_for_money, get_args(type_)))]  # noqa: UP007 - of a tuple
    return type_


def _reference(model: Any) -> str:
    arguments = "_".join(getattr(argument, "__name__", str(argument)) for argument in get_args(model))
    class_ = get_origin(model) or model
    return f"{class_.__module__}.{class_.__qualname__}{f'[{arguments}]' if arguments else ''}:{id(class_)}"
