"""The sandbox in a thread of its own, for blocking code."""

import asyncio
import threading
from types import TracebackType
from typing import Self, Unpack

from .clock import Clock
from .digest_auth import DigestVerifier
from .faults import Faults
from .request_log import RequestLog
from .server import Sandbox
from .settings import Options
from .shop import Shop


class ThreadedSandbox:
    """A `Sandbox` served by a daemon thread with its own event loop.

    ```python
    with ThreadedSandbox(seed=7) as sandbox:
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
        sandbox.faults.add("status", path="*/complete/*", status=503)
        ...
        print(sandbox.requests.of("complete.buy"))
    ```

    Reading its attributes, moving its clock and scripting faults is fine from any thread.

    Args:
        options: keyword arguments, all optional.

            - `seed` (None): of ids, tokens and prices; None draws one, see `.seed`. In a state file, the stored one
              counts.
            - `state` (None): SQLite file that survives a restart; None keeps everything in memory.
            - `clock` (None): time; a `ManualClock` moves only when told to, None is the machine's.
            - `host` ("127.0.0.1"), `port` (0): where to listen; port 0 is any free one.
            - `username` ("sandbox"), `password` (None): of the first partner; None makes one up.
            - `ssl_context` (None): serve https.
            - `paths` (None): operation -> another path template, to play a vendor who answers elsewhere.
            - `products`: the catalogue.
            - `log_limit` (10000): requests kept in the log; 0 for no log.
            - `console` (None): the page at `/_sandbox`, which asks for no password; None for where only this machine
              can reach it.
            - `rates` (`FeeSchedule()`): fees, in percent and AED.
            - `storage_free` (False): no storage fee while a customer stays under 50 kg of metal.
            - `lock_seconds` (240): length of a price lock.
            - `price_interval` (5): seconds from one price to the next.
            - `status_interval` (60): seconds an order stays in one status.
            - `late_complete` ("refuse"): what a completion after the price lock does; or "reprice".
            - `single_shot` (True): a used cart token is a 409; False makes a second order of it.
            - `keep_ids` (True): an order has the `id` of its basket; False numbers orders apart.
            - `lock_restart` (None): seconds after a price lock began after which reading the basket or adding to it
              restarts the lock; None never does.
            - `lock_restart_reprices` (False): such a restart also re-prices the basket.
            - `orders_lag` (0): seconds before a fresh order shows up in Get Orders, Receipt and Get Order Invoice.
            - `reads_lag` (0): seconds that a replica is behind which serves reads of baskets, orders, receipts,
              invoices, customers and wallets; orders lag `orders_lag` behind that.
            - `card_payment` (True): buy baskets carry the `payment` object.
            - `strict_update` (False): Update Customer insists on the fields that a sister family requires.
            - `realm` ("Minted Connect"), `algorithms` (("SHA-256", "MD5")), `qop` ("auth"),
              `basic_first` (False): the Digest challenges it sends.
            - `nonce_lifetime` (300): seconds a nonce is good for.
            - `nonce_uses` (None): how many requests a nonce is good for; None for any number.
            - `strict_nc` (False): nonce counts must increase, not only never repeat.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._sandbox = Sandbox(**options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Threaded{repr(self._sandbox)[1:]}"

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:43210`."""
        return self._sandbox.url

    @property
    def username(self) -> str:
        """Username of the first partner."""
        return self._sandbox.username

    @property
    def password(self) -> str:
        """Password of the first partner."""
        return self._sandbox.password

    @property
    def seed(self) -> int:
        """The seed of ids, tokens and prices: the one given, drawn, or found in the state file."""
        return self._sandbox.seed

    @property
    def reads_behind(self) -> float:
        """The most seconds that a read of orders may be behind: `orders_lag` and `reads_lag` together."""
        return self._sandbox.reads_behind

    @property
    def latest_landing(self) -> float | None:
        """The longest time, in seconds, after which an accepted request may still be executed; None if unbounded.

        Faults cause it, see `Sandbox.latest_landing`. Read it at each call, from any thread.
        """
        return self._sandbox.latest_landing

    @property
    def console_url(self) -> str | None:
        """The page that shows what goes on in it; None where it has none."""
        return self._sandbox.console_url

    @property
    def clock(self) -> Clock:
        """The time it runs on."""
        return self._sandbox.clock

    @property
    def faults(self) -> Faults:
        """Script of what goes wrong."""
        return self._sandbox.faults

    @property
    def requests(self) -> RequestLog:
        """Log of every request."""
        return self._sandbox.requests

    @property
    def shop(self) -> Shop:
        """The state, to be read."""
        return self._sandbox.shop

    @property
    def doorman(self) -> DigestVerifier:
        """The Digest verifier."""
        return self._sandbox.doorman

    def add_partner(self, username: str, password: str) -> None:
        """Let another partner in, who sees nothing of the others."""
        self._sandbox.add_partner(username, password)

    def start(self) -> None:
        """Start the thread and wait until it listens; whatever kept it from that is raised here."""
        if self._thread is not None:
            raise RuntimeError("a sandbox starts once")
        self._thread = threading.Thread(target=self._run, name="minted-connect-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def close(self) -> None:
        """Stop serving and wait for the thread to end. Harmless when called again."""
        if self._thread is None or not self._thread.is_alive():
            return
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._sandbox.start()
        except BaseException as error:  # noqa: BLE001 - it belongs to the thread that called start()
            self._error = error
            return
        else:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        finally:
            self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await self._sandbox.aclose()
