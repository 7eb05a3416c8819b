"""The console at `/_sandbox`: shows the state of a sandbox, advances its clock, adds faults, resets idle connections.

The console asks for no password. It therefore refuses requests of other sites and requests to other host names.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from aiohttp import web

from .active_faults import KINDS, Fault, Faults
from .clock import Clock
from .fault_arguments import Number
from .json_codec import format_number
from .pricing import METALS
from .request_log import RequestLog
from .shop import Shop
from .state import SECOND, to_datetime

PATH = "/_sandbox"
_TICKS = 120
_ROWS = 50
_MAX_SECONDS = 366 * 86_400
_SECONDS = Number(0, _MAX_SECONDS)
_SECONDS_ERROR = f"seconds: a number from 0 to {_MAX_SECONDS}"
_NO_PAGE = (
    "The page of the console is missing: add the data files of minted_connect to the application "
    "(PyInstaller: --collect-data minted_connect)"
)
_MAX_YEAR = 9_000  # datetime ends with the year 9999
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(Protocol):
    """The parts of a sandbox that the console needs."""

    clock: Clock
    faults: Faults
    requests: RequestLog

    @property
    def shop(self) -> Shop:
        """The state."""
        ...

    def reset_idle(self) -> int:
        """Reset each connection that is idle now when its next request arrives."""
        ...


class _HttpError(Exception):
    """A refused request, with the status and the error text of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Console:
    """Responds to the requests below `PATH`.

    Args:
        sandbox: the sandbox to show.
        host: address that the sandbox listens on.
    """

    def __init__(self, sandbox: Server, host: str) -> None:
        self._sandbox = sandbox
        self._host = host
        self._fault_ids: dict[Fault, int] = {}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Respond to one request."""
        try:
            self._check_origin(request)
            return await self._route(request)
        except _HttpError as error:
            return _json({"error": str(error)}, error.status)
        except web.HTTPRequestEntityTooLarge:
            return _json({"error": "the body is too large"}, 413)
        except web.RequestPayloadError:
            return _json({"error": "the body cannot be decoded"}, 400)

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Refuse requests of other sites, and requests to another host name (DNS rebinding)."""
        host = request.headers.get("Host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name not in LOOPBACK and name != self._host and not _is_ip_address(name):
            raise _HttpError(403, "Host: use localhost or the IP address of the sandbox")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{host}":
            raise _HttpError(403, "requests of other sites are refused")
        if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise _HttpError(403, "requests of other sites are refused")

    async def _route(self, request: web.BaseRequest) -> web.Response:
        path = request.path.rstrip("/")
        if request.method in {"GET", "HEAD"}:
            if path == PATH:
                return _page_response()
            if path == f"{PATH}/state":
                return _json(self._state())
        actions: Mapping[str, Callable[[dict[str, Any]], None]] = {
            f"{PATH}/clock": self._advance_clock,
            f"{PATH}/faults": self._add_fault,
            f"{PATH}/faults/remove": self._remove_fault,
            f"{PATH}/reset_idle": self._reset_idle,
        }
        if path not in {PATH, f"{PATH}/state", *actions}:
            raise _HttpError(404, "not found")
        if request.method != "POST" or path not in actions:
            raise _HttpError(405, "method not allowed")
        if request.content_type != "application/json":
            raise _HttpError(415, "Content-Type must be application/json")
        try:
            # Exact decimals, as in the API. NaN is accepted here, so that the error names its field.
            body = json.loads(await request.read(), parse_float=_parse_fraction)
        except (ValueError, RecursionError):
            raise _HttpError(400, "the body must be JSON") from None
        if not isinstance(body, dict):
            raise _HttpError(400, "the body must be a JSON object")
        actions[path](cast("dict[str, Any]", body))
        return _json(self._state())

    # Actions.

    def _advance_clock(self, body: dict[str, Any]) -> None:
        _check_keys("clock", body, "seconds")
        seconds = body.get("seconds")
        advance = getattr(self._sandbox.clock, "advance", None)
        if advance is None:
            raise _HttpError(409, "this sandbox uses the clock of the machine, which cannot be advanced")
        if not _SECONDS.has_type(seconds):
            raise _HttpError(400, _SECONDS_ERROR)
        try:
            converted = _SECONDS.convert(seconds)
        except ValueError:
            raise _HttpError(400, _SECONDS_ERROR) from None
        if to_datetime(self._sandbox.shop.now()).year >= _MAX_YEAR:
            raise _HttpError(409, f"the clock has reached the year {_MAX_YEAR} and cannot be advanced")
        advance(converted)

    def _add_fault(self, body: dict[str, Any]) -> None:
        if "kind" not in body:
            raise _HttpError(422, f"kind: one of {', '.join(KINDS)}")
        try:
            self._sandbox.faults.add(**body)
        except (TypeError, ValueError) as error:
            raise _HttpError(422, str(error)) from None

    def _remove_fault(self, body: dict[str, Any]) -> None:
        _check_keys("faults/remove", body, "id")
        number = body.get("id")
        if type(number) is not int:
            raise _HttpError(422, "id: must be the id of a fault, an integer")
        for fault in self._sandbox.faults.all():
            if self._fault_id(fault) == number:
                fault.remove()
                return
        raise _HttpError(404, "id: there is no such fault")

    def _reset_idle(self, body: dict[str, Any]) -> None:
        _check_keys("reset_idle", body)
        self._sandbox.reset_idle()

    # The state.

    def _state(self) -> dict[str, Any]:
        shop, clock = self._sandbox.shop, self._sandbox.clock
        return {
            "seed": shop.seed,
            "now": _format_time(to_datetime(shop.now())),
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
            "id": self._fault_id(fault),
            "kind": fault.kind,
            "method": fault.method,
            "path": fault.path,
            "times": fault.times,
            "hits": fault.hits,
            "waiting": fault.waiting,
        }

    def _fault_id(self, fault: Fault) -> int:
        return self._fault_ids.setdefault(fault, len(self._fault_ids) + 1)


def _parse_fraction(digits: str) -> Decimal:
    """Return an exact number; infinity if its exponent is too large, so that the error names the field."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        return Decimal("Infinity")


def _check_keys(action: str, body: Mapping[str, Any], *known: str) -> None:
    if unknown := set(body).difference(known):
        raise _HttpError(422, f"{action} takes no {', '.join(sorted(unknown))}")


def _prices(shop: Shop) -> list[dict[str, Any]]:
    tick = shop.walk.tick(shop.now())
    rows: list[dict[str, Any]] = []
    for metal in METALS:
        quotes = [(one, shop.walk.at(metal, one)) for one in range(tick - _TICKS + 1, tick + 1)]
        last = quotes[-1][1]
        rows.append(
            {
                "metal": metal.metal_type,
                "spot": format_number(last.spot),
                "buy": format_number(last.buy),
                "sell": format_number(last.sell),
                "points": [[shop.walk.tick_start(one) / SECOND, format_number(quote.spot)] for one, quote in quotes],
            }
        )
    return rows


def _baskets(shop: Shop) -> list[dict[str, Any]]:
    owners = {customer.id: customer.external_id for customer in shop.customers}
    return [
        {
            "id": basket.id,
            "customer": owners.get(basket.customer),
            "kind": basket.kind,
            "lines": ", ".join([f"{item.amount} x {item.sku}" for item in basket.items]),
            "total": format_number(shop.figures(basket, shop.lines(basket)).paid_total),
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
            "total": format_number(order.figures.paid_total),
            "completed": _format_time(to_datetime(order.completed)),
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


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document), status=status, content_type="application/json", headers=_HEADERS)


def _is_ip_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _page_response() -> web.Response:
    try:
        return web.Response(text=_page(), content_type="text/html", headers=_HEADERS)
    except (OSError, KeyError):  # zip files raise KeyError
        return web.Response(text=_NO_PAGE, status=503, headers=_HEADERS)


@cache
def _page() -> str:
    return files(__name__.rpartition(".")[0]).joinpath("console.html").read_text("utf-8")
