"""Validates the URL of a PostgreSQL journal, and removes user name and password for display."""

from __future__ import annotations

from typing import Any, Final

from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError
from minted_connect.journal.protocol import EXPECTED
from minted_connect.secret import Secret

__all__ = ["parse_url"]

_SCHEMES: Final = ("postgresql://", "postgres://")

_PRIMARY: Final = ("read-write", "primary")
"""Values of `target_session_attrs` that exclude standbys."""


def parse_url(url: Secret) -> tuple[str, bool]:
    """Return the URL reduced to host, port and database, and whether `target_session_attrs` must be set.

    The latter is true if the URL names several hosts without a `target_session_attrs` that excludes standbys.

    Raises:
        ConfigurationError: if the URL cannot be used, or if psycopg is not installed.
    """
    if not url.reveal().startswith(_SCHEMES):
        raise ConfigurationError(f"journal: {EXPECTED}; for SQLite give the path alone")
    import_extra("psycopg", "postgres", "journal: a PostgreSQL journal needs psycopg")
    parsed = _parse_conninfo(url)
    if parsed is None:
        raise ConfigurationError(
            "journal: must be a URL like postgresql://user:password@host:5432/database; in a password write %40 for @, "
            "%2F for /, and so on"
        )
    location, has_several_hosts, session_attrs = parsed
    if has_several_hosts and session_attrs not in {*_PRIMARY, "any"}:
        # A standby lags behind: it could report that no intent is open.
        raise ConfigurationError(
            "journal: target_session_attrs must be read-write or primary, or left out, if the URL names several hosts"
        )
    return location, has_several_hosts and session_attrs == "any"


def _parse_conninfo(url: Secret) -> tuple[str, bool, str] | None:
    """Return the location, whether there are several hosts, and `target_session_attrs`; None if the URL is invalid.

    This function raises nothing, because its local variables contain the password.
    """
    from psycopg import Error, conninfo, pq  # noqa: PLC0415

    params: dict[str, Any] = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    try:
        params |= conninfo.conninfo_to_dict(url.reveal())
    except (Error, ValueError):
        return None
    hosts = str(params["host"] or params["hostaddr"] or "localhost").split(",")
    ports, database = str(params["port"]).split(","), str(params["dbname"] or params["user"])
    # libpq may read a part of a password with unescaped characters as a host or as the database.
    names = "".join([*hosts, database])
    if "@" in names or not (names.isprintable() and url.reveal().isprintable()):
        return None
    if not all(port.isdecimal() for port in ports if port):
        return None
    addresses = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False)
    location = f"postgresql://{','.join(_address(host, port) for host, port in addresses)}/{database}"
    has_several_hosts = max(len(hosts), len(str(params["hostaddr"] or "").split(","))) > 1
    return location, has_several_hosts, str(params["target_session_attrs"] or "any")


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
