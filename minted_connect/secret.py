"""Credentials, and strings that must not appear in output."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import attrs

from minted_connect.errors import ConfigurationError
from minted_connect.validation import check_type

__all__ = ["Credentials", "CredentialsFunction", "Secret", "as_secret", "check_username", "hide_password"]


class Secret:
    """A string whose `repr` and `str` are ``***``, and which cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        check_type("a secret", value, str)
        self._value = value

    def reveal(self) -> str:
        """Return the string itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        # Constant time, so that comparing does not leak the secret byte by byte.
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(errors="surrogatepass"), other._value.encode(errors="surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: build the client where it is used")


def as_secret(value: str | Secret) -> Secret:
    """Wrap a string in a `Secret`. Any other value is returned unchanged; its validator reports a wrong type."""
    return Secret(value) if isinstance(value, str) else value


def check_username(value: Any) -> None:
    """Raise ConfigurationError unless `value` can be a user name."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError("username: must be a non-empty string")
    if not value.isprintable():
        raise ConfigurationError("username: must be printable, without a line break at its end or elsewhere")


def _validate_username(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    check_username(value)


def _validate_password(_instance: object, _attribute: attrs.Attribute[Any], value: Any) -> None:
    # The plain text is never bound to a name here: tracebacks with local variables would show it.
    if not isinstance(value, Secret) or not value.reveal():
        raise ConfigurationError("password: must be a non-empty string")
    if value.reveal().endswith(("\n", "\r")):
        raise ConfigurationError("password: must not end in a line break; strip what was read from a file")
    if any("\ud800" <= char <= "\udfff" for char in value.reveal()):
        raise ConfigurationError("password: must be valid Unicode")


@attrs.frozen
class Credentials:
    """User name and password that the vendor issued to the partner."""

    username: str = attrs.field(repr=False, validator=_validate_username)
    password: Secret = attrs.field(repr=False, converter=as_secret, validator=_validate_password)


def hide_password(value: str | Secret | CredentialsFunction) -> Secret | CredentialsFunction:
    """Wrap a password in a `Secret`. A function that returns it is returned unchanged."""
    return Secret(value) if isinstance(value, str) else value


CredentialsFunction = Callable[[], str | Secret | Credentials | Awaitable[str | Secret | Credentials]]
"""Returns the password, or user name and password: a plain function, called in a worker thread, or a coroutine
function."""
