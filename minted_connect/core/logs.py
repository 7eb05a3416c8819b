"""The environment variable `MINTED_LOG`, which writes the log to standard error without a change of the program.

Otherwise the library adds only a `NullHandler`, and stays silent in a program that does not configure logging.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from minted_connect.errors import ConfigurationError

__all__ = ["setup_logging"]

_LOGGER: Final = logging.getLogger("minted_connect")
_LOGGER.addHandler(logging.NullHandler())
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup_logging() -> None:
    """Set the log level from `MINTED_LOG`: debug, info, warning or error; do nothing if it is not set.

    Raises:
        ConfigurationError: if `MINTED_LOG` has another value.
    """
    name = os.environ.get("MINTED_LOG")
    if not name:
        return
    level = _LEVELS.get(name.casefold())
    if level is None:
        raise ConfigurationError(f"MINTED_LOG: must be one of {', '.join(_LEVELS)}")
    _LOGGER.setLevel(level)
    # If the root logger has a handler, a second one would print every record twice.
    if not logging.getLogger().handlers and len(_LOGGER.handlers) == 1:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        _LOGGER.addHandler(handler)
