"""The options of a sandbox: types, defaults and checks. `ThreadedSandbox` documents each option."""

import math
import ssl
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from attrs import Attribute, field, frozen
from attrs.validators import in_, optional

from .catalogue import PRODUCTS, Product
from .clock import Clock
from .pricing import FeeSchedule


class Options(TypedDict, total=False):
    """The keyword arguments of `Sandbox` and `ThreadedSandbox`; see `ThreadedSandbox`."""

    seed: int | None
    state: str | PathLike[str] | None
    host: str
    port: int
    username: str
    password: str | None
    clock: Clock | None
    ssl_context: ssl.SSLContext | None
    paths: Mapping[str, str] | None
    log_limit: int
    products: tuple[Product, ...]
    realm: str
    algorithms: Sequence[str]
    qop: str | None
    nonce_lifetime: float
    nonce_uses: int | None
    strict_nc: bool
    basic_first: bool
    fees: FeeSchedule
    storage_free: bool
    lock_seconds: float
    price_interval: float
    status_interval: float
    late_complete: Literal["refuse", "reprice"]
    single_shot: bool
    keep_ids: bool
    lock_restart: float | None
    lock_restart_reprices: bool
    orders_lag: float
    reads_lag: float
    card_payment: bool
    strict_update: bool
    quirks: Literal["laravel"] | None
    console: bool | None


def _check_seconds(owner: object, option: "Attribute[Any]", value: object) -> None:
    del owner
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option.name} must be a number of seconds, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{option.name} must be a finite number of seconds, not negative")


def _check_positive_seconds(owner: object, option: "Attribute[Any]", value: object) -> None:
    _check_seconds(owner, option, value)
    if not value:
        raise ValueError(f"{option.name} must be more than 0 seconds")


@frozen(kw_only=True)
class Rules:
    """The options for behaviour of the vendor that is not known or varies; see `ThreadedSandbox`."""

    fees: FeeSchedule = field(factory=FeeSchedule)
    storage_free: bool = False
    lock_seconds: float = 240.0
    price_interval: float = 5.0
    status_interval: float = 60.0
    late_complete: Literal["refuse", "reprice"] = "refuse"
    single_shot: bool = True
    keep_ids: bool = True
    lock_restart: float | None = field(default=None, validator=optional(_check_positive_seconds))
    lock_restart_reprices: bool = False
    orders_lag: float = field(default=0.0, validator=_check_seconds)
    reads_lag: float = field(default=0.0, validator=_check_seconds)
    card_payment: bool = True
    strict_update: bool = False


@frozen(kw_only=True)
class Settings(Rules):
    """All options of a sandbox, those of `Rules` included; see `ThreadedSandbox`."""

    seed: int | None = None
    state: str | PathLike[str] | None = None
    host: str = "127.0.0.1"
    port: int = 0
    username: str = "sandbox"
    password: str | None = field(default=None, repr=False)
    clock: Clock | None = None
    ssl_context: ssl.SSLContext | None = None
    paths: Mapping[str, str] | None = None
    log_limit: int = 10_000
    products: tuple[Product, ...] = PRODUCTS
    realm: str = "Minted Connect"
    algorithms: Sequence[str] = ("SHA-256", "MD5")
    qop: str | None = "auth"
    nonce_lifetime: float = 300.0
    nonce_uses: int | None = None
    strict_nc: bool = False
    basic_first: bool = False
    quirks: Literal["laravel"] | None = field(default=None, validator=optional(in_(("laravel",))))
    console: bool | None = None
