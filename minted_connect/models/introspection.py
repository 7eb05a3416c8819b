"""Resolved annotations and documented fields of the models, for `inspect.signature` and `help`."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from itertools import pairwise
from typing import get_type_hints

import attrs

__all__ = ["make_introspectable"]


class _FieldDocs:
    """A class docstring that lists the docstrings of the fields, read from the source on first access."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, _instance: object, owner: type) -> str:
        # pdoc itself shows the docstring of each field.
        if "pdoc" in sys.modules:
            return self._text
        docs: dict[str, str] = {}
        for base in reversed(owner.__mro__):
            docs |= _field_docs(base)
        lines = [f"    {name}: {docs[name]}" for name in attrs.fields_dict(owner) if name in docs]
        return "\n".join([inspect.cleandoc(self._text), "", "Attributes:", *lines]) if lines else self._text


def _field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings of the fields of a class; empty if the source code is not available."""
    if not attrs.has(cls):
        return {}
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):
        return {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def make_introspectable(cls: type) -> None:
    """Resolve the annotations of `__init__` where fields are inherited, and list the fields in the docstring."""
    # attrs copies the annotations of inherited fields as strings. They name types that only the base class's module
    # imports, so `inspect.signature(cls, eval_str=True)` would fail.
    if cls.__base__ is not None and attrs.has(cls.__base__):
        annotations: dict[str, object] = vars(cls)["__init__"].__annotations__
        hints = get_type_hints(cls)
        annotations |= {field.alias: hints[field.name] for field in attrs.fields(cls) if field.alias in annotations}
    # Python calls `__get__` of a `__doc__` object that has this method.
    type.__setattr__(cls, "__doc__", _FieldDocs(cls.__doc__ or ""))
