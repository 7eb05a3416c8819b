"""Packages that only some need: imported when they are, and named with their extra when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from minted_connect.errors import ConfigurationError

__all__ = ["import_extra"]


def import_extra(module: str, extra: str, why: str) -> Any:
    """Return a module of an extra.

    Raises:
        ConfigurationError: it is not installed; the text is `why`, and how to install the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f'{why}: pip install "minted-connect[{extra}]"') from error
