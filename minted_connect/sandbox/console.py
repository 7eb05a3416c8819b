"""The console at `/_sandbox`: a page that shows what goes on in a sandbox, moves its clock and arms faults.

It is for a person at this machine: it asks for no password, and so answers no other site's requests.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from aiohttp import web

from .clock import Clock
from .fault_arguments import Number
from .faults import KINDS, Fault, Faults
from .json_codec import number
from .pricing import METALS
from .request_log import RequestLog
from .shop import Shop
from .state import SECOND, at

PATH = "/_sandbox"
_TICKS = 120
_ROWS = 50
_FARTHEST = 366 * 86_400
_SECONDS = Number(0, _FARTHEST)
_LAST_YEAR = 9_000  # dates end with the year 9999
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Shown(Protocol):
    """What of a sandbox the console shows and moves."""

    clock: Clock
    faults: Faults
    requests: RequestLog

    @property
    def shop(self) -> Shop:
        """The state."""
        ...


class _Refused(Exception):
    """A request that is not answered; the text says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Console:
    """Answers the requests below `PATH`.

    Args:
        sandbox: what it shows.
        host: address the sandbox listens on.
    """

    def __init__(self, sandbox: Shown, host: str) -> None:
        self._sandbox = sandbox
        self._host = host
        self._numbers: dict[Fault, int] = {}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        try:
            self._check(request)
            return await self._found(request)
        except _Refused as refused:
            return _json({"error": str(refused)}, refused.status)

    def _check(self, request: web.BaseRequest) -> None:
        """Refuse what another site, or a name that was made to lead here, has sent the browser to ask."""
        host = request.headers.get("Host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name not in LOOPBACK and name != self._host and not _is_address(name):
            raise _Refused(403, "ask by the address, or by localhost")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{host}":
            raise _Refused(403, "not for other sites")
        if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise _Refused(403, "not for other sites")

    async def _found(self, request: web.BaseRequest) -> web.Response:
        path = request.path.rstrip("/")
        if request.method in {"GET", "HEAD"}:
            if path == PATH:
                return web.Response(text=_page(), content_type="text/html", headers=_HEADERS)
            if path == f"{PATH}/state":
                return _json(self._state())
        actions: Mapping[str, Callable[[dict[str, Any]], None]] = {
            f"{PATH}/clock": self._move_clock,
            f"{PATH}/faults": self._arm,
            f"{PATH}/faults/remove": self._disarm,
        }
        if path not in {PATH, f"{PATH}/state", *actions}:
            raise _Refused(404, "there is nothing here")
        if request.method != "POST" or path not in actions:
            raise _Refused(405, "not that way")
        if request.content_type != "application/json":
            raise _Refused(415, "send application/json")
        try:
            # As the API reads it: exact decimals. NaN is passed on, so that the field it was given for is named.
            given = json.loads(await request.read(), parse_float=Decimal)
        except (ValueError, RecursionError):
            raise _Refused(400, "send JSON") from None
        if not isinstance(given, dict):
            raise _Refused(400, "send an object")
        actions[path](cast("dict[str, Any]", given))
        return _json(self._state())

    # What can be done.

    def _move_clock(self, given: dict[str, Any]) -> None:
        seconds = given.get("seconds")
        advance = getattr(self._sandbox.clock, "advance", None)
        if advance is None:
            raise _Refused(409, "this sandbox runs on the machine's clock")
        if not _SECONDS.has_type(seconds):
            raise _Refused(400, f"seconds: a number from 0 to {_FARTHEST}")
        try:
            moved = _SECONDS.convert(seconds)
        except ValueError:
            raise _Refused(400, f"seconds: a number from 0 to {_FARTHEST}") from None
        if at(self._sandbox.shop.now()).year >= _LAST_YEAR:
            raise _Refused(409, f"the clock shows the year {_LAST_YEAR} already")
        advance(moved)

    def _arm(self, given: dict[str, Any]) -> None:
        if "kind" not in given:
            raise _Refused(422, f"kind: one of {', '.join(KINDS)}")
        try:
            self._sandbox.faults.add(**given)
        except (TypeError, ValueError) as error:
            raise _Refused(422, str(error)) from None

    def _disarm(self, given: dict[str, Any]) -> None:
        for fault in self._sandbox.faults.all():
            if self._number(fault) == given.get("id"):
                fault.remove()
                return
        raise _Refused(404, "that fault is gone")

    # What is shown.

    def _state(self) -> dict[str, Any]:
        shop, clock = self._sandbox.shop, self._sandbox.clock
        return {
            "seed": shop.seed,
            "now": _moment(at(shop.now())),
            "movable": hasattr(clock, "advance"),
            "prices": _prices(shop),
            "baskets": _baskets(shop),
            "orders": _orders(shop),
            "wallets": _wallets(shop),
            "requests": self._requests(),
            "faults": [self._fault(fault) for fault in self._sandbox.faults.all()],
            "kinds": KINDS,
        }

    def _requests(self) -> dict[str, Any]:
        log, now = self._sandbox.requests, self._sandbox.clock.monotonic()
        return {
            "total": log.total,
            "last": [
                {
                    "ago": round(now - entry.at, 1),
                    "method": entry.method,
                    "path": entry.path,
                    "operation": entry.operation,
                    "status": entry.status,
                    "fault": entry.fault,
                }
                for entry in reversed(log[-_ROWS:])
            ],
        }

    def _fault(self, fault: Fault) -> dict[str, Any]:
        return {
            "id": self._number(fault),
            "kind": fault.kind,
            "method": fault.method,
            "path": fault.path,
            "times": fault.times,
            "hits": fault.hits,
            "waiting": fault.waiting,
        }

    def _number(self, fault: Fault) -> int:
        return self._numbers.setdefault(fault, len(self._numbers) + 1)


def _prices(shop: Shop) -> list[dict[str, Any]]:
    tick = shop.walk.tick(shop.now())
    shown: list[dict[str, Any]] = []
    for metal in METALS:
        quotes = [(each, shop.walk.at(metal, each)) for each in range(tick - _TICKS + 1, tick + 1)]
        last = quotes[-1][1]
        shown.append(
            {
                "metal": metal.metal_type,
                "spot": number(last.spot),
                "buy": number(last.buy),
                "sell": number(last.sell),
                "points": [[shop.walk.started(each) / SECOND, number(quote.spot)] for each, quote in quotes],
            }
        )
    return shown


def _baskets(shop: Shop) -> list[dict[str, Any]]:
    owners = {customer.id: customer.external_id for customer in shop.customers}
    return [
        {
            "id": basket.id,
            "customer": owners.get(basket.customer),
            "kind": basket.kind,
            "lines": ", ".join([f"{item.amount} x {item.sku}" for item in basket.items]),
            "total": number(shop.figures(basket, shop.lines(basket)).paid_total),
            "remaining": shop.remaining(basket),
        }
        for basket in reversed(shop.baskets[-_ROWS:])
    ]


def _orders(shop: Shop) -> list[dict[str, Any]]:
    return [
        {
            "id": order.id,
            "customer": order.external_customer_id,
            "kind": order.kind,
            "status": shop.status(order)[1],
            "total": number(order.figures.paid_total),
            "completed": _moment(at(order.completed)),
        }
        for order in reversed(shop.orders[-_ROWS:])
    ]


def _wallets(shop: Shop) -> list[dict[str, Any]]:
    return [
        {"customer": customer.external_id, "sku": sku, "pieces": pieces}
        for customer in reversed(shop.customers[-_ROWS:])
        for sku, pieces in customer.holdings.items()
        if pieces
    ]


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document), status=status, content_type="application/json", headers=_HEADERS)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _page() -> str:
    return files(__name__.rpartition(".")[0]).joinpath("console.html").read_text("utf-8")
