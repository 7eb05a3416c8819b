"""The environment variable `MINTED_LOG`, which writes the log to standard error, and errors that are always logged.

Without the variable, the library adds only a `NullHandler`, and stays silent in a program that does not configure
logging.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from minted_connect.errors import ConfigurationError

__all__ = ["log_error", "setup_logging"]

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
    for logger in [_LOGGER, *_LOGGER.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger) and logger.name.partition(".")[0] == _LOGGER.name:
            logger.disabled = False
    # If the root logger has a handler, a second one would print every record twice.
    if not logging.getLogger().handlers and len(_LOGGER.handlers) == 1:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        _LOGGER.addHandler(handler)


def log_error(logger: logging.Logger, message: str, *args: object, exc_info: bool = False) -> None:
    """Log a message about money at level ERROR, even if `logging.config` has disabled the logger.

    By default, `dictConfig` and `fileConfig` disable all loggers that exist and that they do not name. That must not
    hide the errors that need a person. Levels, filters and `logging.disable` apply as usual.

    Args:
        logger: The logger.
        message: The message, with placeholders for `args`.
        args: Values of the placeholders.
        exc_info: Whether to append the traceback of the current exception.
    """
    if not logger.disabled:
        logger.error(message, *args, exc_info=exc_info or None, stacklevel=2)
        return
    if max(logger.manager.disable, logger.getEffectiveLevel() - 1) >= logging.ERROR:
        return
    path, line, function, _ = logger.findCaller(stacklevel=2)
    exception = sys.exc_info() if exc_info else None
    record = logger.makeRecord(logger.name, logging.ERROR, path, line, message, args, exception, function)
    if logger.filter(record):
        logger.callHandlers(record)
