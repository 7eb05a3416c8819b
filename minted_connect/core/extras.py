"""Imports of optional dependencies, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from minted_connect.errors import ConfigurationError

__all__ = ["import_extra"]


def import_extra(module: str, extra: str, why: str) -> Any:
    """Import and return a module that an extra installs.

    Raises:
        ConfigurationError: if the module cannot be imported; the text is `why` and the command that installs the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f'{why}: pip install "minted-connect[{extra}]"') from error
