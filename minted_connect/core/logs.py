"""`MINTED_LOG=debug`: the log on standard error, for a look without touching the program.

A library is silent in a program that did not configure logging; this is the one switch that makes it speak.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from minted_connect.errors import ConfigurationError

__all__ = ["setup_logging"]

_ROOT: Final = logging.getLogger("minted_connect")
_ROOT.addHandler(logging.NullHandler())
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SHOWN: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup_logging() -> None:
    """Do as `MINTED_LOG` says: debug, info, warning or error.

    Raises:
        ConfigurationError: it says something else.
    """
    wanted = os.environ.get("MINTED_LOG")
    if not wanted:
        return
    level = _LEVELS.get(wanted.casefold())
    if level is None:
        raise ConfigurationError(f"MINTED_LOG: must be one of {', '.join(_LEVELS)}")
    _ROOT.setLevel(level)
    # Where the program shows its log already, a second handler would show every line twice.
    if not logging.getLogger().handlers and len(_ROOT.handlers) == 1:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_SHOWN))
        _ROOT.addHandler(handler)
