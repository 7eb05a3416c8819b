"""What goes wrong with PostgreSQL, in words of our own.

Its own words quote rows, which name customers and baskets, and the errors of psycopg carry the password.
"""

from __future__ import annotations

import re
from decimal import InvalidOperation
from typing import Final

__all__ = ["said_by"]

_LOCKED: Final = "is locked by another session"
_SLOW: Final = "gave no answer in time"
_UNREACHABLE: Final = "cannot be reached"
_STOPPED: Final = "is starting or shutting down"
_READ_ONLY: Final = "cannot be written: the server is a standby, or set to read only"

# By SQLSTATE, or its first two letters, the class (PostgreSQL, appendix A).
_PROBLEMS: Final = {
    "08": "broke the connection off",
    "22": "cannot hold this intent",
    "23": "refuses this intent: another has its basket, or its id",
    "25006": _READ_ONLY,
    "28": "refused the user name or the password",
    "3F": "has no schema to hold its tables: see the search_path",
    "40P01": _LOCKED,
    "42": "holds tables of these names that are something else",
    "42501": "cannot be used: the role has no permission for its tables, or none to create them",
    "53": "cannot take more: the server is out of memory, connections or disk",
    "53100": "cannot grow: the disk is full",
    "55P03": _LOCKED,
    "57": _STOPPED,
    "57014": f"{_SLOW}: the server was too slow, or was told to cancel",
    "58030": "cannot be read or written: the server reports an error of its disk",
    "XX": "is damaged",
}

# A failed connection has no SQLSTATE, only words: those of libpq, and of a server that speaks English.
_REASONS: Final = tuple(
    (re.compile(words), problem)
    for words, problem in (
        (r'database ".*" does not exist|no such database', "cannot be used: there is no such database"),
        (r"permission denied for database", "cannot be used: the role has no permission for the database"),
        (r"authentication failed|no password supplied|no pg_hba\.conf entry|no such user", _PROBLEMS["28"]),
        (r'role ".*" (does not exist|is not permitted)', _PROBLEMS["28"]),
        (r"too many|connection slots", "has no connection free"),
        (r"starting up|shutting down|in recovery mode|not (yet )?accepting connections", _STOPPED),
        (r"session is read-only|not in (standby|hot standby) mode|is in hot standby mode", _READ_ONLY),
        (r"SSL|certificate", "cannot be connected to: there is no encryption that both sides accept"),
        (r"[Rr]efused|Is the server running|resolve|[Tt]imed? ?out|unreachable|closed the|Errno", _UNREACHABLE),
        (r"", "cannot be connected to"),
    )
)


def said_by(error: Exception, *, connected: bool) -> str | None:
    """Return what an error means for the journal, or None if it says so itself or nobody thought of it."""
    import psycopg  # noqa: PLC0415

    match error:
        case TimeoutError():
            return _SLOW if connected else f"{_UNREACHABLE}: no answer in time"
        case psycopg.InterfaceError() if not connected:
            return "cannot be used on this event loop: psycopg needs a SelectorEventLoop"
        case psycopg.Error() if connected:
            return _by_state(error.sqlstate, error)
        case psycopg.Error():
            return next(problem for words, problem in _REASONS if words.search(str(error)))
        case UnicodeEncodeError():
            return _PROBLEMS["22"]
        case ValueError() | TypeError() | LookupError() | InvalidOperation():
            return "holds a record that cannot be read"
        case RuntimeError() if not connected:
            return "cannot be used: there is no thread for it"  # which would resolve the name of the host
        case _:
            return None


def _by_state(state: str | None, error: Exception) -> str:
    import psycopg  # noqa: PLC0415

    if state is None:
        # Found by psycopg itself: a connection that broke, or a value that cannot be sent.
        state = "22" if isinstance(error, psycopg.DataError) else "08"
    return _PROBLEMS.get(state) or _PROBLEMS.get(state[:2]) or f"failed ({type(error).__name__})"
