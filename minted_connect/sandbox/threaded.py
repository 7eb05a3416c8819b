"""The sandbox in a thread of its own, for blocking code."""

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self, Unpack

from .clock import real_monotonic
from .server import BaseSandbox
from .settings import Options


class ThreadedSandbox(BaseSandbox):
    """A sandbox served by a daemon thread with its own event loop. Its attributes are those of `Sandbox`.

    ```python
    with ThreadedSandbox(seed=7) as sandbox:
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
        sandbox.faults.add("status", path="*/complete/*", status=503)
        ...
        print(sandbox.requests.of("complete.buy"))
    ```

    Every thread may read its attributes, move its clock, and add or remove faults.

    Args:
        options: keyword arguments, all optional. Q and S numbers are the questions of the guides money-safety
            and evidence.

            - `seed` (None): seed of ids, tokens and prices; None draws one, see `.seed`. A state file keeps the seed
              that it was created with.
            - `state` (None): SQLite file that keeps the state across restarts; None keeps the state in memory.
            - `clock` (None): clock of the sandbox, such as a `ManualClock`; None for the clock of the machine.
            - `host` ("127.0.0.1"), `port` (0): address to listen on; port 0 for any free port. With another host than
              a loopback address, other machines can connect.
            - `username` ("sandbox"), `password` (None): credentials of the first partner; None generates a password.
            - `ssl_context` (None): serve HTTPS with this context.
            - `paths` (None): operation -> path template, to simulate a vendor with other paths.
            - `products`: the catalogue, a tuple of `Product`.
            - `log_limit` (10000): maximum number of requests in the log; 0 turns the log off.
            - `console` (None): whether to serve the console at `/_sandbox`, which asks for no password; None serves it
              only if `host` is a loopback address.
            - `fees` (`FeeSchedule()`): fees, in percent and AED.
            - `storage_free` (False): charge no storage fee while the customer holds at most 50 kg of metal, with the
              basket.
            - `lock_seconds` (240): length of a price lock. 240 s is inferred.
            - `price_interval` (5): seconds from one price to the next.
            - `status_interval` (60): seconds until an order reaches its next status.
            - `late_complete` ("refuse"): what a completion after the end of the price lock does (Q3): "refuse" responds
              with a 422 on `cart_token`, "reprice" completes at the new price.
            - `single_shot` (True): respond with 409 to a used cart token; False makes a second order, so that a test
              detects a client that completes twice (S14).
            - `keep_ids` (True): give an order the `id` of its basket; False numbers orders separately (Q4).
            - `lock_restart` (None): age of a price lock, in seconds, from which Get Active Basket and Add Basket Item
              restart it, although it has not expired; None never restarts it. Update Basket Item does not restart it.
            - `lock_restart_reprices` (False): such a restart also re-prices the basket.
            - `orders_lag` (0): seconds until a new order appears in Get Orders, Receipt and Get Order Invoice (Q5).
            - `reads_lag` (0): delay, in seconds, of the replica that serves all reads of baskets, orders, receipts,
              invoices, customers and wallets; orders are delayed by `orders_lag` on top. Responses to changes are
              never delayed.
            - `card_payment` (True): send the `payment` object in buy baskets, as in the examples of Feb 2026; False
              sends null, as in those of Mar 2026.
            - `strict_update` (False): require in Update Customer the fields that the E-Commerce page requires.
            - `quirks` (None): "laravel" sends the shapes that Laravel and MySQL write instead of the documented ones:
              ids and page counts as strings, flags as 0 and 1, dates with a midnight, `[]`, `""` and zero dates for
              null, and a byte order mark before the JSON.
            - `realm` ("Minted Connect"): realm of the Digest challenges.
            - `algorithms` (("SHA-256", "MD5")): algorithms of the Digest challenges, one `WWW-Authenticate` line each,
              in this order.
            - `qop` ("auth"): "auth", "auth-int", "auth,auth-int", or None for challenges without qop.
            - `nonce_lifetime` (300): seconds until a nonce expires.
            - `nonce_uses` (None): maximum number of requests with one nonce; None for no limit.
            - `strict_nc` (False): require that nonce counts increase; False only refuses a repeated count.
            - `basic_first` (False): send a `Basic` challenge before the Digest challenges, as some proxies do.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requested: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread and wait until it listens.

        Raises:
            OSError: if the port is in use.
            sqlite3.Error: if the state file cannot be opened, or is not a SQLite database.
            RuntimeError: if the sandbox was started before.
        """
        if self._thread is not None:
            raise RuntimeError("a sandbox starts once")
        self._thread = threading.Thread(target=self._run, name="minted-connect-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def close(self) -> None:
        """Stop serving and wait for the thread to end. Idempotent."""
        if self._thread is None or not self._thread.is_alive():
            return
        if self._loop is not None and self._stop_requested is not None:
            self._loop.call_soon_threadsafe(self._stop_requested.set)
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
        with asyncio.Runner() as runner:
            # An instance attribute, so that the loop's timers continue while a library has frozen `time.monotonic`.
            with contextlib.suppress(AttributeError):  # a loop in C, which never reads `time.monotonic`
                runner.get_loop().time = real_monotonic  # type: ignore[method-assign]
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._start()
        except BaseException as error:  # noqa: BLE001 - start() raises it in its own thread
            self._error = error
            return
        else:
            self._loop, self._stop_requested = asyncio.get_running_loop(), asyncio.Event()
        finally:
            self._ready.set()
        try:
            await self._stop_requested.wait()
        finally:
            await self._stop()
