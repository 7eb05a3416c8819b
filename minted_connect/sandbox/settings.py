"""Every option of a sandbox, with its default."""

import ssl
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypedDict

from attrs import field, frozen

from .catalogue import PRODUCTS, Product
from .clock import Clock
from .errors import Rules
from .pricing import FeeSchedule


class Options(TypedDict, total=False):
    """What `Sandbox(...)` and `ThreadedSandbox(...)` take; `Settings` says what each is and its default."""

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
    rates: FeeSchedule
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
    console: bool | None


@frozen(kw_only=True)
class Settings(Rules):
    """The options of a sandbox; those of `Rules` too.

    Attributes:
        seed: of ids, tokens and prices; None draws one. In a state file, the stored one counts.
        state: SQLite file that survives a restart; None keeps everything in memory.
        host: address to listen on. Anything but loopback is for whoever can reach it.
        port: 0 for any free one.
        username: of the first partner.
        password: of the first partner; None makes one up.
        clock: time; None for the machine's.
        ssl_context: serve https.
        paths: operation -> another path template, to play a vendor who answers elsewhere.
        log_limit: requests kept in the log; 0 for no log.
        products: the catalogue.
        console: the page at /_sandbox, which asks for no password; None where only this machine can reach it.
        realm, algorithms, qop, nonce_lifetime, nonce_uses, strict_nc, basic_first: see `DigestVerifier`.
    """

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
    console: bool | None = None
