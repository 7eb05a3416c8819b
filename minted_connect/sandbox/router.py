"""Routing: finds the operation of a request, calls its handler, and puts the result into the envelope."""

import contextlib
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from . import handlers
from .entities import AcceptedBasket
from .errors import ShopError, invalid
from .handlers import OperationRequest
from .json_codec import Object, decode, encode, failure, success
from .messages import translate
from .shop import Shop

_PARAMETER = re.compile(r"\{\w*\}")
_CUSTOMER = "/partner/customer/{external_customer_id}"
_BASKET = "/partner/walletable/basket"

OPERATIONS: dict[str, tuple[str, str, Callable[[OperationRequest], object]]] = {
    "customers.create": ("POST", "/partner/customer", handlers.create_customer),
    "customers.update": ("PATCH", _CUSTOMER, handlers.update_customer),
    "customers.remove": ("DELETE", _CUSTOMER, handlers.remove_customer),
    "customers.get": ("GET", _CUSTOMER, handlers.get_customer),
    "products.page": ("GET", "/partner/walletable/products", handlers.get_products),
    "baskets.get_active": ("GET", _BASKET, handlers.get_basket),
    "baskets.add_item": ("POST", _BASKET, handlers.add_item),
    "baskets.update_item": ("PATCH", _BASKET, handlers.update_item),
    "baskets.delete_item": ("DELETE", _BASKET, handlers.delete_item),
    "baskets.clear": ("DELETE", _BASKET + "/empty", handlers.clear_basket),
    "complete.buy": ("POST", "/partner/walletable/complete/buy", handlers.complete_buy),
    "complete.sell": ("POST", "/partner/walletable/complete/sell", handlers.complete_sell),
    "complete.delivery": ("POST", "/partner/walletable/complete/delivery", handlers.complete_delivery),
    "orders.page": ("GET", "/partner/walletable/orders", handlers.get_orders),
    "orders.receipt": ("GET", "/partner/walletable/receipt", handlers.get_receipt),
    "orders.invoice": ("GET", "/partner/order/{external_order_id}/invoice", handlers.get_invoice),
    "wallet.balance": ("GET", "/partner/walletable/balance", handlers.get_balance),
    "rates.current": ("GET", "/partner/walletable/rates", handlers.get_rates),
    "rates.history": ("GET", "/partner/walletable/rates/history", handlers.get_rate_history),
}
"""Operation -> HTTP method, path template (evidence guide, "The operations"), and handler."""


@frozen
class Response:
    """A response before encoding: an envelope, with or without a byte order mark, or a `body` that replaces it."""

    status: int
    envelope: Mapping[str, object]
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    has_bom: bool = False

    def payload(self) -> bytes:
        """Return the bytes of the body."""
        if self.body is not None:
            return self.body
        return (BOM_UTF8 if self.has_bom else b"") + encode(self.envelope).encode("ascii")


@frozen
class IncomingRequest:
    """A request as received, without authentication.

    Attributes:
        method: HTTP method.
        target: path and query as sent.
        headers: case-insensitive, or with lower-case names.
        body: the bytes of the body.
        accepted: for a completion, the basket as it was on acceptance; None: look the basket up on execution.
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
        """`en` if `Accept-Language` begins with it, else `tr`, the vendor's default."""
        return parse_language(self.headers.get("accept-language"))


def parse_language(header: str | None) -> str:
    """Return the language that an `Accept-Language` header selects."""
    return "en" if header and header.lstrip().lower().startswith("en") else "tr"


def parse_query(target: str) -> dict[str, str]:
    """Return the query of a target; of a repeated name the last value counts, as in PHP."""
    _, _, query = target.partition("?")
    return dict(parse_qsl(query, keep_blank_values=True)) if query else {}


@frozen
class Match:
    """The operation of a request, and the parameters in its path."""

    operation: str
    params: dict[str, str]


class Router:
    """Finds the operation of a request.

    Args:
        paths: operation -> path template, to simulate a vendor with other paths.
    """

    def __init__(self, paths: Mapping[str, str] | None = None) -> None:
        paths = dict(paths or {})
        if unknown := set(paths) - set(OPERATIONS):
            raise ValueError(f"no such operation: {sorted(unknown)}")
        self._fixed: dict[str, dict[str, Match]] = {}
        self._templates: list[tuple[list[str], dict[str, str]]] = []
        for name, (method, default, _) in OPERATIONS.items():
            path = paths.get(name, default)
            if sorted(_PARAMETER.findall(path)) != sorted(_PARAMETER.findall(default)):
                raise ValueError(f"the path of {name} must take the parameters of {default}")
            self._add(name, method, path)

    def _add(self, name: str, method: str, path: str) -> None:
        if "{" not in path:
            self._fixed.setdefault(path, {})[method] = Match(name, {})
            return
        parts = path.split("/")
        for template, methods in self._templates:
            if template == parts:
                methods[method] = name
                return
        self._templates.append((parts, {method: name}))

    def find(self, method: str, path: str) -> Match | int:
        """Return the match, or 404 for an unknown path, or 405 for an unknown method."""
        methods = self._fixed.get(path)
        if methods is not None:
            return methods.get(method, 405)
        segments = path.split("/")
        for template, names in self._templates:
            params = _match_template(template, segments)
            if params is not None:
                return Match(names[method], params) if method in names else 405
        return 404


def _match_template(template: list[str], segments: list[str]) -> dict[str, str] | None:
    """Return the values of a template's placeholders; None if the path does not match."""
    if len(template) != len(segments):
        return None
    params: dict[str, str] = {}
    for part, segment in zip(template, segments, strict=True):
        if part.startswith("{"):
            if not segment:
                return None
            params[part[1:-1]] = unquote(segment)
        elif part != segment:
            return None
    return params


class Dispatcher:
    """Executes authenticated requests.

    Args:
        shop: the state.
        router: finds the operation.
        base_url: prefix of the URLs in paginated responses.
        reshape: changes each response before it is returned; None: they are not changed.
    """

    def __init__(
        self, shop: Shop, router: Router, base_url: str = "", *, reshape: Callable[[Response], Response] | None = None
    ) -> None:
        self.base_url = base_url
        self.router = router
        self._shop = shop
        self._reshape = reshape

    def dispatch(self, partner: str, request: IncomingRequest) -> Response:
        """Execute a request and return its response. Invalid requests raise nothing: they get an error response."""
        response = self._execute(partner, request)
        return response if self._reshape is None else self._reshape(response)

    def _execute(self, partner: str, request: IncomingRequest) -> Response:
        language = request.language
        match = self.router.find(request.method, request.path)
        if isinstance(match, int):
            return Response(match, failure(match, translate("no_route" if match == 404 else "wrong_method", language)))
        try:
            if not request.headers.get("x-client-id"):
                raise invalid("x-client-id", "required", field="x-client-id")
            handler = OPERATIONS[match.operation][2]
            return Response(200, success(handler(self._parse(partner, request, match))))
        except ShopError as error:
            return make_refusal(error, language)

    def accept(self, partner: str, request: IncomingRequest) -> AcceptedBasket | None:
        """Return the present basket of a completion, for `IncomingRequest.accepted`; None if no such basket is open."""
        match = self.router.find(request.method, request.path)
        if isinstance(match, int) or not match.operation.startswith("complete."):
            return None
        try:
            return handlers.accept(self._parse(partner, request, match))
        except ShopError:
            return None

    def _parse(self, partner: str, request: IncomingRequest, match: Match) -> OperationRequest:
        return OperationRequest(
            shop=self._shop,
            partner=partner,
            language=request.language,
            path=self.base_url + request.path,
            params=match.params,
            query=parse_query(request.target),
            body=_parse_body(request),
            accepted=request.accepted,
        )


def make_refusal(error: ShopError, language: str) -> Response:
    """Return the response for an error of the shop."""
    errors = {name: [translate(text, language, **values)] for name, (text, values) in error.fields.items()}
    return Response(error.status, failure(error.status, translate(error.text, language), errors))


def _parse_body(request: IncomingRequest) -> Object:
    """Return the JSON object in the body; an empty body is an empty object."""
    if not request.body:
        return {}
    found: object = None
    if "json" in request.headers.get("content-type", "").lower():
        with contextlib.suppress(ValueError):
            found = decode(request.body)
    if not isinstance(found, dict):
        raise invalid("body", "json")
    return cast("Object", found)
