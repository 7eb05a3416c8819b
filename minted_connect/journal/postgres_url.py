"""Validates the URL of a PostgreSQL journal, and returns it without secrets."""

from __future__ import annotations

from typing import Any, Final

from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError
from minted_connect.secret import Secret

__all__ = ["parse_url"]

_SCHEMES: Final = ("postgresql://", "postgres://")

_PRIMARY: Final = ("read-write", "primary")
"""Values of `target_session_attrs` with which no standby is taken."""


def parse_url(url: Secret) -> tuple[str, bool]:
    """Return the URL as it may be shown (host, port and database), and whether it names several hosts.

    Raises:
        ConfigurationError: if the URL cannot be used, or psycopg is not installed.
    """
    if not url.reveal().startswith(_SCHEMES):
        raise ConfigurationError(
            "journal: must be the path of a file, a URL postgresql://..., or an object with the methods of Journal; "
            "for SQLite give the path alone"
        )
    import_extra("psycopg", "postgres", "journal: a PostgreSQL journal needs psycopg")
    found = _shown(url)
    if found is None:
        raise ConfigurationError(
            "journal: must be a URL like postgresql://user:password@host:5432/database; in a password write %40 for @, "
            "%2F for /, and so on"
        )
    place, several, wanted = found
    if several and wanted not in {*_PRIMARY, "any"}:
        # A standby lags behind: it would say that nothing is open.
        raise ConfigurationError(
            "journal: target_session_attrs must be read-write or primary, or left out, if the URL names several hosts"
        )
    return place, several and wanted == "any"


def _shown(url: Secret) -> tuple[str, bool, str] | None:
    # A function of its own, which raises nothing, because its variables hold the password.
    from psycopg import Error, conninfo, pq  # noqa: PLC0415

    parts: dict[str, Any] = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    try:
        parts |= conninfo.conninfo_to_dict(url.reveal())
    except (Error, ValueError):
        return None
    hosts = str(parts["host"] or parts["hostaddr"] or "localhost").split(",")
    ports, database = str(parts["port"]).split(","), str(parts["dbname"] or parts["user"])
    # The rest of a password may be read as a host or the database by libpq.
    names = "".join([*hosts, database])
    if "@" in names or not (names.isprintable() and url.reveal().isprintable()):
        return None
    if not all(port.isdecimal() for port in ports if port):
        return None
    addresses = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False)
    place = f"postgresql://{','.join(_address(host, port) for host, port in addresses)}/{database}"
    several = max(len(hosts), len(str(parts["hostaddr"] or "").split(","))) > 1
    return place, several, str(parts["target_session_attrs"] or "any")


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
