"""The HTTP surface: which path and method is which operation, and envelopes around what comes out."""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from . import operations
from .operations import Call
from .rules import ShopError, invalid
from .shop import AcceptedBasket, Shop
from .texts import say
from .wire import Object, decode, encode, failure, success

_PARAMETER = re.compile(r"\{\w*\}")
_CUSTOMER = "/partner/customer/{external_customer_id}"
_BASKET = "/partner/walletable/basket"

OPERATIONS: dict[str, tuple[str, str, Callable[[Call], object]]] = {
    "customers.create": ("POST", "/partner/customer", operations.create_customer),
    "customers.update": ("PATCH", _CUSTOMER, operations.update_customer),
    "customers.remove": ("DELETE", _CUSTOMER, operations.remove_customer),
    "customers.get": ("GET", _CUSTOMER, operations.get_customer),
    "products.page": ("GET", "/partner/walletable/products", operations.products),
    "baskets.get_active": ("GET", _BASKET, operations.get_basket),
    "baskets.add_item": ("POST", _BASKET, operations.add_item),
    "baskets.update_item": ("PATCH", _BASKET, operations.update_item),
    "baskets.delete_item": ("DELETE", _BASKET, operations.delete_item),
    "baskets.clear": ("DELETE", _BASKET + "/empty", operations.clear_basket),
    "complete.buy": ("POST", "/partner/walletable/complete/buy", operations.complete_buy),
    "complete.sell": ("POST", "/partner/walletable/complete/sell", operations.complete_sell),
    "complete.delivery": ("POST", "/partner/walletable/complete/delivery", operations.complete_delivery),
    "orders.page": ("GET", "/partner/walletable/orders", operations.orders),
    "orders.receipt": ("GET", "/partner/walletable/receipt", operations.receipt),
    "orders.invoice": ("GET", "/partner/order/{external_order_id}/invoice", operations.invoice),
    "wallet.balance": ("GET", "/partner/walletable/balance", operations.balance),
    "rates.current": ("GET", "/partner/walletable/rates", operations.rates),
    "rates.history": ("GET", "/partner/walletable/rates/history", operations.rate_history),
}
"""Operation -> HTTP method, path template (walletable.md section 2), and what answers it."""


@frozen
class Reply:
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
    """A request as it came in. `headers` have lower-case names; `target` is path and query as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

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


class Routes:
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

    def answer(self, partner: str, request: Incoming, accepted: AcceptedBasket | None = None) -> Reply:
        """Execute a request and return the reply; never raises for anything a client did."""
        language = request.language
        match = self.router.find(request.method, request.path)
        if isinstance(match, int):
            return Reply(match, failure(match, say("no_route" if match == 404 else "wrong_method", language)))
        try:
            if not request.headers.get("x-client-id"):
                raise invalid("x-client-id", "required", field="x-client-id")
            return Reply(200, success(OPERATIONS[match.operation][2](self._call(partner, request, match, accepted))))
        except ShopError as error:
            return refusal(error, language)

    def accept(self, partner: str, request: Incoming) -> AcceptedBasket | None:
        """Return the basket that a completion is for, as it is now, to be passed to `answer` later."""
        match = self.router.find(request.method, request.path)
        if isinstance(match, int) or not match.operation.startswith("complete."):
            return None
        try:
            return operations.accept(self._call(partner, request, match))
        except ShopError:
            return None

    def _call(self, partner: str, request: Incoming, match: Match, accepted: AcceptedBasket | None = None) -> Call:
        return Call(
            shop=self._shop,
            partner=partner,
            language=request.language,
            path=self.base_url + request.path,
            params=match.params,
            query=query_of(request.target),
            body=_body(request),
            accepted=accepted,
        )


def refusal(error: ShopError, language: str) -> Reply:
    """Turn the shop's refusal into an answer."""
    errors = {name: [say(text, language, **values)] for name, (text, values) in error.fields.items()}
    return Reply(error.status, failure(error.status, say(error.text, language), errors))


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
