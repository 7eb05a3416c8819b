"""Models as arguments and responses of FastAPI: money is text, also in the OpenAPI document."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated, Any, get_type_hints

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openapi_spec_validator")

from fastapi import Body, FastAPI
from openapi_spec_validator import validate
from pydantic import BaseModel, TypeAdapter, ValidationError

from minted_connect import (
    AsyncMintedConnect,
    Basket,
    Customer,
    MintedConnect,
    Options,
    Order,
    Page,
    Product,
    Rate,
    to_dict,
)
from minted_connect.errors import (
    AlreadyInFlight,
    InvalidInput,
    LimiterTimeout,
    MintedConnectError,
    NotFound,
    OutcomeUnknown,
    PriceFixExpired,
)
from minted_connect.fastapi import MintedJSONResponse
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.serialization import to_json_value
from tests.completion.fakes import intent_of
from tests.frameworks.test_recipes import complete_recipe
from tests.support.operations import CALLS, PreparedData, prepare_data
from tests.support.options import fresh_reads

pytestmark = pytest.mark.anyio


async def request(app: FastAPI, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Call an application as a server does, and return status and JSON."""
    sent: list[dict[str, Any]] = []
    content = b"" if body is None else json.dumps(body).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("test", 80),
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]) or b"null")


@pytest.fixture
async def minted() -> AsyncIterator[tuple[AsyncMintedConnect, PreparedData]]:
    clock = ManualClock(auto_advance=True)
    options = fresh_reads(Options(clock=clock))
    async with (
        Sandbox(seed=1, clock=clock) as sandbox,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options) as minted,
    ):
        yield minted, await prepare_data(minted, sandbox, clock)


def route_of(call: Any, minted: Any, data: PreparedData, returned: Any) -> Any:
    async def route() -> Any:
        return await call(minted, data)

    route.__annotations__ = {"return": returned}
    return route


def returned_by(name: str) -> Any:
    resource, _, method = name.partition(".")
    with MintedConnect("x", "x", base_url="http://127.0.0.1") as client:
        class_ = type(getattr(client, resource))
    found = getattr(class_, method)
    return get_type_hints(found)["return"]


def app_of_all(minted: Any, data: Any) -> FastAPI:
    """Return an application with a route for each operation, with the annotation of its method."""
    app = FastAPI()
    for name, call in CALLS.items():
        app.post(f"/{name}", name=name)(route_of(call, minted, data, returned_by(name)))
    return app


@pytest.mark.parametrize("name", CALLS)
async def test_route_of_each_operation_returns_its_data(
    minted: tuple[AsyncMintedConnect, PreparedData], name: str
) -> None:
    shown: list[Any] = []

    async def call(client: Any, data: Any) -> Any:
        shown.append(await CALLS[name](client, data))
        return shown[0]

    app = FastAPI()
    app.post("/call")(route_of(call, *minted, returned_by(name)))
    status, body = await request(app, "POST", "/call")
    assert status == 200
    model = shown[0]
    if model is None:
        assert body is None
    else:
        assert body == to_json_value(model)
        assert TypeAdapter(returned_by(name)).validate_python(body) == model
    assert not [value for value in leaves(body) if isinstance(value, float)]


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


async def test_openapi_document_of_all_operations_is_valid(minted: tuple[AsyncMintedConnect, PreparedData]) -> None:
    document = json.loads(json.dumps(app_of_all(*minted).openapi()))
    validate(document)
    schemas = document["components"]["schemas"]
    assert schemas["Order"]["properties"]["paid_total"] == {
        "type": "string",
        "format": "decimal",
        "title": "Paid Total",
    }
    assert schemas["Order"]["properties"]["order_at"]["format"] == "date-time"
    assert "paid_total" in schemas["Order"]["required"]
    assert "raw" not in schemas["Order"]["properties"]
    returned = document["paths"]["/complete.buy"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert returned == {"$ref": "#/components/schemas/Completion"}
    numbers = [schema for schema in leaves_of_schemas(schemas) if schema.get("type") == "number"]
    assert numbers == []


def leaves_of_schemas(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *[leaf for item in value.values() for leaf in leaves_of_schemas(item)]]
    return [leaf for item in value for leaf in leaves_of_schemas(item)] if isinstance(value, list) else []


async def test_annotated_routes_validate_their_input(minted: tuple[AsyncMintedConnect, PreparedData]) -> None:
    client, data = minted
    app = FastAPI()

    @app.post("/echo")
    async def echo(basket: Annotated[Basket, Body()]) -> Basket:
        assert basket.is_expired
        return basket

    @app.get("/rates")
    async def rates() -> list[Rate]:
        return list(await client.rates.current())

    @app.get("/products")
    async def products() -> Page[Product]:
        return await client.products.page()

    plain = to_dict(data.buying, mode="json")
    assert await request(app, "POST", "/echo", plain) == (200, plain)
    status, body = await request(app, "POST", "/echo", {**plain, "paid_total": 1.5})
    assert status == 422
    assert "data.paid_total: must be a Decimal" in body["detail"][0]["msg"]
    assert (await request(app, "GET", "/rates"))[1][0]["buy_price"] == "592.18"
    assert (await request(app, "GET", "/products"))[1]["items"][0]["sku"]
    validate(json.loads(json.dumps(app.openapi())))


async def test_route_without_annotation_returns_a_response(minted: tuple[AsyncMintedConnect, PreparedData]) -> None:
    order = minted[1].bought
    app = FastAPI()

    @app.get("/order")
    async def get_order():
        return MintedJSONResponse({"order": order, "extra": Decimal("1.10")}, status_code=201)

    status, body = await request(app, "GET", "/order")
    assert (status, body) == (201, {"order": to_dict(order, mode="json"), "extra": "1.10"})


def test_response_refuses_values_without_a_form_in_json() -> None:
    with pytest.raises(InvalidInput, match=r"^value: must consist of models"):
        MintedJSONResponse({"x": object()})


async def test_models_are_fields_of_pydantic_models(minted: tuple[AsyncMintedConnect, PreparedData]) -> None:
    order = minted[1].bought

    class Sale(BaseModel):
        order: Order
        note: str = ""

    sale = Sale(order=order)
    assert sale.order is order
    assert Sale.model_validate_json(sale.model_dump_json()).order == order
    assert Sale.model_validate(sale.model_dump()).order == order
    with pytest.raises(ValidationError, match=r"data.id: must be a whole number"):
        Sale.model_validate({"order": {**to_dict(order), "id": "x"}})
    assert TypeAdapter(list[Order]).validate_python([order]) == [order]


@pytest.mark.requirement(33)
async def test_errors_of_pydantic_do_not_quote_the_data() -> None:
    person = {"external_id": "canary-1", "firstname": "canary-2", "email": "canary-3", "id": "canary-4"}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[Customer]).validate_python([person])
    assert "data.id: must be a whole number" in str(caught.value)
    assert "canary" not in f"{caught.value}{caught.value.errors()}{caught.value.json()}"
    app = FastAPI()

    @app.post("/customer")
    async def customer(customer: Annotated[Customer, Body()]) -> None:
        raise AssertionError(customer)

    status, body = await request(app, "POST", "/customer", person)
    assert status == 422
    assert "canary" not in str(body)


ERRORS: list[tuple[MintedConnectError, int]] = [
    (OutcomeUnknown("x", intent_of()), 409),  # not a status that proxies and clients repeat
    (LimiterTimeout("x"), 503),
    (NotFound("no such order", 404), 404),
    (InvalidInput.of("qty", "must be at least 1"), 422),
    (PriceFixExpired("the price lock has expired"), 409),
    (AlreadyInFlight("bought", intent_id="i"), 409),
]


async def test_error_recipe_maps_the_tree_to_statuses() -> None:
    scope: dict[str, Any] = {}
    exec(complete_recipe("statuses"), scope)
    app, failing = scope["app"], list[MintedConnectError]()

    @app.get("/fail")
    async def fail() -> None:
        raise failing[0]

    for error, expected in ERRORS:
        failing[:] = [error]
        status, body = await request(app, "GET", "/fail")
        assert (status, body["error"], body["safe_to_retry"]) == (expected, type(error).__name__, error.safe_to_retry)


def test_package_imports_pydantic_only_if_asked() -> None:
    program = "import sys; from minted_connect import *; print('pydantic' in sys.modules, 'starlette' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
