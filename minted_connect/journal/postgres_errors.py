"""Describes errors of psycopg and PostgreSQL without the data they quote.

Messages of the server quote rows, which name customers and baskets, and errors of psycopg contain the password.
"""

from __future__ import annotations

import re
from decimal import InvalidOperation
from typing import Final

from minted_connect.journal.postgres_connections import NoFreeConnection

__all__ = ["describe_error"]

_LOCKED: Final = "is locked by another session"
_TIMED_OUT: Final = "did not respond in time"
_UNREACHABLE: Final = "cannot be reached"
_STOPPED: Final = "is starting or shutting down"
_READ_ONLY: Final = "cannot be written: the server is a standby, or set to read only"

# By SQLSTATE, or by its class, the first two characters (PostgreSQL documentation, appendix A).
_BY_SQLSTATE: Final = {
    "08": "closed the connection",
    "22": "cannot store this intent",
    "23": "rejects this intent: another intent has the same basket or id",
    "25006": _READ_ONLY,
    "28": "rejected the user name or the password",
    "3F": "has no schema for its tables: check the search_path",
    "40P01": _LOCKED,
    "42": "contains other tables with the names of the journal's tables",
    "42501": "cannot be used: the role has no permission for its tables, or none to create them",
    "53": "cannot be written: the server is out of memory, connections or disk space",
    "53100": "cannot grow: the disk is full",
    "55P03": _LOCKED,
    "57": _STOPPED,
    "57014": f"{_TIMED_OUT}: the server was too slow, or the statement was cancelled",
    "58030": "cannot be read or written: the disk of the server reports an error",
    "XX": "is damaged",
}

# A failed connection has no SQLSTATE, only a message: of libpq, or of the server (in English only).
_BY_MESSAGE: Final = tuple(
    (re.compile(pattern), description)
    for pattern, description in (
        (r'database ".*" does not exist|no such database', "cannot be used: the database does not exist"),
        (r"permission denied for database", "cannot be used: the role has no permission for the database"),
        (r"authentication failed|no password supplied|no pg_hba\.conf entry|no such user", _BY_SQLSTATE["28"]),
        (r'role ".*" (does not exist|is not permitted)', _BY_SQLSTATE["28"]),
        (r"too many|connection slots", "has no free connection"),
        (r"starting up|shutting down|in recovery mode|not (yet )?accepting connections", _STOPPED),
        (r"session is read-only|not in (standby|hot standby) mode|is in hot standby mode", _READ_ONLY),
        (r"SSL|certificate", "cannot be connected to: client and server accept no common encryption"),
        (r"[Rr]efused|Is the server running|resolve|[Tt]imed? ?out|unreachable|closed the|Errno", _UNREACHABLE),
        (r"", "cannot be connected to"),
    )
)


def describe_error(error: Exception, *, connected: bool) -> str | None:
    """Return a description that completes "the journal URL ...", or None to raise the error as it is.

    Args:
        error: The error.
        connected: Whether it was raised after the connection was established.
    """
    import psycopg  # noqa: PLC0415

    match error:
        case NoFreeConnection():
            return "has no free connection: other operations use all connections of its pool"
        case TimeoutError():
            return _TIMED_OUT if connected else f"{_UNREACHABLE}: the server did not respond in time"
        case psycopg.InterfaceError() if not connected:
            return "cannot be used on this event loop: psycopg needs a SelectorEventLoop"
        case psycopg.Error() if connected:
            return _describe_sqlstate(error.sqlstate, error)
        case psycopg.Error():
            return next(description for pattern, description in _BY_MESSAGE if pattern.search(str(error)))
        case UnicodeEncodeError():
            return _BY_SQLSTATE["22"]
        case ValueError() | TypeError() | LookupError() | InvalidOperation():
            return "contains a record that cannot be read"
        case RuntimeError() if not connected:
            # The default executor, which resolves host names, is shut down.
            return "cannot be used: no thread is available to resolve the host name"
        case _:
            return None


def _describe_sqlstate(sqlstate: str | None, error: Exception) -> str:
    import psycopg  # noqa: PLC0415

    if sqlstate is None:
        # Raised by psycopg itself: the connection broke, or a value cannot be sent.
        sqlstate = "22" if isinstance(error, psycopg.DataError) else "08"
    return _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2]) or f"failed ({type(error).__name__})"
