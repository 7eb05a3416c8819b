"""The HTTP surface: which path and method is which operation, and envelopes around what comes out."""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from . import handlers
from .entities import AcceptedBasket
from .errors import ShopError, invalid
from .handlers import Call
from .json_codec import Object, decode, encode, failure, success
from .messages import translate
from .shop import Shop

_PARAMETER = re.compile(r"\{\w*\}")
_CUSTOMER = "/partner/customer/{external_customer_id}"
_BASKET = "/partner/walletable/basket"

OPERATIONS: dict[str, tuple[str, str, Callable[[Call], object]]] = {
    "customers.create": ("POST", "/partner/customer", handlers.create_customer),
    "customers.update": ("PATCH", _CUSTOMER, handlers.update_customer),
    "customers.remove": ("DELETE", _CUSTOMER, handlers.remove_customer),
    "customers.get": ("GET", _CUSTOMER, handlers.get_customer),
    "products.page": ("GET", "/partner/walletable/products", handlers.products),
    "baskets.get_active": ("GET", _BASKET, handlers.get_basket),
    "baskets.add_item": ("POST", _BASKET, handlers.add_item),
    "baskets.update_item": ("PATCH", _BASKET, handlers.update_item),
    "baskets.delete_item": ("DELETE", _BASKET, handlers.delete_item),
    "baskets.clear": ("DELETE", _BASKET + "/empty", handlers.clear_basket),
    "complete.buy": ("POST", "/partner/walletable/complete/buy", handlers.complete_buy),
    "complete.sell": ("POST", "/partner/walletable/complete/sell", handlers.complete_sell),
    "complete.delivery": ("POST", "/partner/walletable/complete/delivery", handlers.complete_delivery),
    "orders.page": ("GET", "/partner/walletable/orders", handlers.orders),
    "orders.receipt": ("GET", "/partner/walletable/receipt", handlers.receipt),
    "orders.invoice": ("GET", "/partner/order/{external_order_id}/invoice", handlers.invoice),
    "wallet.balance": ("GET", "/partner/walletable/balance", handlers.balance),
    "rates.current": ("GET", "/partner/walletable/rates", handlers.rates),
    "rates.history": ("GET", "/partner/walletable/rates/history", handlers.rate_history),
}
"""Operation -> HTTP method, path template (walletable.md section 2), and what answers it."""


@frozen
class Response:
    """An answer before it is bytes: either an envelope, or a `body` that replaces it."""

    status: int
    envelope: Mapping[str, object]
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    def payload(self) -> bytes:
        """Return the bytes of the body."""
        return self.body if self.body is not None else encode(self.envelope).encode("ascii")


@frozen
class Incoming:
    """A request as it came in. `headers` have lower-case names; `target` is path and query as sent.

    `accepted` is the basket that a completion completes; None for the one that is found on execution.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    accepted: AcceptedBasket | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def language(self) -> str:
        """`en` if that is what the client asks for first, else `tr`, the vendor's default."""
        return language_of(self.headers.get("accept-language"))


def language_of(header: str | None) -> str:
    """Read Accept-Language."""
    return "en" if header and header.lstrip().lower().startswith("en") else "tr"


def query_of(target: str) -> dict[str, str]:
    """Return the query; of a repeated name the last value counts, as in PHP."""
    _, _, query = target.partition("?")
    return dict(parse_qsl(query, keep_blank_values=True)) if query else {}


@frozen
class Match:
    """Where a request leads: an operation and the values in its path."""

    operation: str
    params: dict[str, str]


class Router:
    """Finds the operation of a request.

    Args:
        paths: other path templates for some operations, to play a vendor who answers elsewhere.
    """

    def __init__(self, paths: Mapping[str, str] | None = None) -> None:
        paths = dict(paths or {})
        if unknown := set(paths) - set(OPERATIONS):
            raise ValueError(f"no such operation: {sorted(unknown)}")
        self._fixed: dict[str, dict[str, Match]] = {}
        self._templates: list[tuple[list[str], dict[str, str]]] = []
        for name, (method, path, _) in OPERATIONS.items():
            elsewhere = paths.get(name, path)
            if sorted(_PARAMETER.findall(elsewhere)) != sorted(_PARAMETER.findall(path)):
                raise ValueError(f"the path of {name} must take the parameters of {path}")
            self._add(name, method, elsewhere)

    def _add(self, name: str, method: str, path: str) -> None:
        if "{" not in path:
            self._fixed.setdefault(path, {})[method] = Match(name, {})
            return
        parts = path.split("/")
        for known, methods in self._templates:
            if known == parts:
                methods[method] = name
                return
        self._templates.append((parts, {method: name}))

    def find(self, method: str, path: str) -> Match | int:
        """Return the match, or 404 for an unknown path, or 405 for an unknown method."""
        methods = self._fixed.get(path)
        if methods is not None:
            return methods.get(method, 405)
        given = path.split("/")
        for parts, names in self._templates:
            params = _fill(parts, given)
            if params is not None:
                return Match(names[method], params) if method in names else 405
        return 404


def _fill(parts: list[str], given: list[str]) -> dict[str, str] | None:
    """Return the values of a template's placeholders; None if the path does not fit."""
    if len(parts) != len(given):
        return None
    params: dict[str, str] = {}
    for part, value in zip(parts, given, strict=True):
        if part.startswith("{"):
            if not value:
                return None
            params[part[1:-1]] = unquote(value)
        elif part != value:
            return None
    return params


class Dispatcher:
    """Answers authenticated requests.

    Args:
        shop: where the work is done.
        router: finds the operation.
        base_url: starts the addresses in the paginator.
    """

    def __init__(self, shop: Shop, router: Router, base_url: str = "") -> None:
        self.base_url = base_url
        self.router = router
        self._shop = shop

    def answer(self, partner: str, request: Incoming) -> Response:
        """Execute a request and return the reply; never raises for anything a client did."""
        language = request.language
        match = self.router.find(request.method, request.path)
        if isinstance(match, int):
            return Response(match, failure(match, translate("no_route" if match == 404 else "wrong_method", language)))
        try:
            if not request.headers.get("x-client-id"):
                raise invalid("x-client-id", "required", field="x-client-id")
            return Response(200, success(OPERATIONS[match.operation][2](self._call(partner, request, match))))
        except ShopError as error:
            return refusal(error, language)

    def accept(self, partner: str, request: Incoming) -> AcceptedBasket | None:
        """Return the basket that a completion is for, as it is now, to be `Incoming.accepted` later."""
        match = self.router.find(request.method, request.path)
        if isinstance(match, int) or not match.operation.startswith("complete."):
            return None
        try:
            return handlers.accept(self._call(partner, request, match))
        except ShopError:
            return None

    def _call(self, partner: str, request: Incoming, match: Match) -> Call:
        return Call(
            shop=self._shop,
            partner=partner,
            language=request.language,
            path=self.base_url + request.path,
            params=match.params,
            query=query_of(request.target),
            body=_body(request),
            accepted=request.accepted,
        )


def refusal(error: ShopError, language: str) -> Response:
    """Turn the shop's refusal into an answer."""
    errors = {name: [translate(text, language, **values)] for name, (text, values) in error.fields.items()}
    return Response(error.status, failure(error.status, translate(error.text, language), errors))


def _body(request: Incoming) -> Object:
    """Read the JSON object in the body; none at all counts as empty."""
    if not request.body:
        return {}
    found: object = None
    if "json" in request.headers.get("content-type", "").lower():
        with contextlib.suppress(ValueError):
            found = decode(request.body)
    if not isinstance(found, dict):
        raise invalid("body", "json")
    return cast("Object", found)
