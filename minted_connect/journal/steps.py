"""The type of a transaction's body, which all SQL journals share."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["Rows", "Steps"]

_T = TypeVar("_T")

Rows = Sequence[Sequence[Any]]

Steps = Generator[tuple[str, Mapping[str, Any]], Rows, _T]
"""The body of a transaction: yields statements with their parameters, receives their rows, and returns the result."""
