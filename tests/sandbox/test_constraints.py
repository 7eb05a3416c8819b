"""Every constraint of the API's tables is a 422 that names the field, and the nearest allowed value passes."""

import pytest

pytestmark = pytest.mark.anyio

TOKEN = "x" * 32
BASKET = "/partner/walletable/basket"
ABSENT = object()

CUSTOMER = {"external_id": "cust-9", "firstname": "John", "lastname": "Due"}
ADD = {"external_customer_id": "cust-1", "sku": "MNTBAE0001", "qty": 1}
KEY = {"external_customer_id": "cust-1", "cart_token": TOKEN}
UPDATE = {**KEY, "sku": "MNTBAE0001", "qty": 1}
DELETE = {**KEY, "sku": "MNTBAE0001"}

NOT_STRINGS = (5, True, 1.5, [], {})
CUSTOMER_ID = ("external_customer_id", (ABSENT, None, "", "x" * 111, "nobody", *NOT_STRINGS))
CART_TOKEN = ("cart_token", (ABSENT, None, "", "x" * 31, "x" * 33, TOKEN, *NOT_STRINGS))
SKU = ("sku", (ABSENT, None, "", "NOPE", *NOT_STRINGS))
QTY = ("qty", (ABSENT, None, 0, -1, "1", True, 1.5, [], 10**30))
PERSON = [
    *((name, ("Jo", "x" * 41, *NOT_STRINGS)) for name in ("firstname", "middlename", "lastname")),
    ("email", ("nonsense", "a@b", "a b@example.com", *NOT_STRINGS)),
    ("gender", ("X", "m", *NOT_STRINGS)),
    ("birthdate", ("31.01.1970", "1970-13-01", "1970-02-30", "19700131", "0000-01-01", *NOT_STRINGS)),
    ("phone", NOT_STRINGS),
    ("identity_number", NOT_STRINGS),
]

BODIES = [
    (
        "POST",
        "/partner/customer",
        CUSTOMER,
        [
            ("external_id", (ABSENT, None, "", "ab", "x" * 41, "a b c", "añb", "a/b", *NOT_STRINGS)),
            *PERSON,
            ("tax_office", ("ab", "x" * 41, *NOT_STRINGS)),
            ("account_type", ("shop", *NOT_STRINGS)),
        ],
    ),
    (
        "PATCH",
        "/partner/customer/cust-1",
        {"firstname": "John"},
        [*PERSON, ("identity_number", ("12",)), ("external_id", ("other", *NOT_STRINGS))],
    ),
    ("POST", BASKET, ADD, [CUSTOMER_ID, SKU, QTY, ("type", ("lend", *NOT_STRINGS)), ("cart_token", CART_TOKEN[1][3:])]),
    ("PATCH", BASKET, UPDATE, [CUSTOMER_ID, CART_TOKEN, SKU, QTY]),
    ("DELETE", BASKET, DELETE, [CUSTOMER_ID, CART_TOKEN, SKU]),
    ("DELETE", BASKET + "/empty", KEY, [CUSTOMER_ID, CART_TOKEN]),
    *(("POST", f"/partner/walletable/complete/{k}", KEY, [CUSTOMER_ID, CART_TOKEN]) for k in ("buy", "sell")),
]
CASES = [
    pytest.param(method, path, body, field, value, id=f"{method} {path[9:]} {field}={str(value)[:12]}-{n}")
    for method, path, body, fields in BODIES
    for field, values in fields
    for n, value in enumerate(values)
]


@pytest.fixture
async def basket(api):
    await api.create_customer()
    return (await api.add_item()).data


def with_field(body, field, value, basket):
    """Return the body with the real token and one invalid field."""
    body = {name: basket["token"] if content is TOKEN else content for name, content in body.items()}
    body[field] = value
    if value is ABSENT:
        del body[field]
    return body


@pytest.mark.parametrize(("method", "path", "body", "field", "value"), CASES)
async def test_invalid_field_of_body_gets_422(api, basket, sandbox, method, path, body, field, value):
    before = [one.items for one in sandbox.shop.baskets], len(sandbox.shop.customers)
    response = await api.send(method, path, with_field(body, field, value, basket))
    assert set(response.errors) == {field}
    assert ([one.items for one in sandbox.shop.baskets], len(sandbox.shop.customers)) == before


@pytest.mark.parametrize(
    ("method", "path", "body"), [case[:3] for case in BODIES if case[1] != "/partner/walletable/complete/sell"]
)
async def test_valid_body_is_accepted(api, basket, method, path, body):
    body = {name: basket["token"] if content is TOKEN else content for name, content in body.items()}
    assert (await api.send(method, path, body)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"external_id": "abc"},
        {"external_id": "x" * 40, "firstname": "Joe", "lastname": "x" * 40},
        {"external_id": "A_z-09", "middlename": "", "email": "a@example.com", "gender": "F", "birthdate": "2000-02-29"},
        {"external_id": "abc", "firstname": None, "email": None, "birthdate": None, "unknown": 1},
    ],
)
async def test_customer_at_limits_is_accepted(api, body):
    assert (await api.send("POST", "/partner/customer", body)).status == 200


@pytest.mark.parametrize(
    ("field", "values"),
    [
        *(
            (name, (ABSENT, None, "", *NOT_STRINGS))
            for name in ("fullname", "phone", "city", "county", "district", "address", "tax_number")
        ),
        ("external_id", ("x" * 111, *NOT_STRINGS)),
        ("street", NOT_STRINGS),
        ("zipcode", ("123456", *NOT_STRINGS)),
        ("email", ("nonsense", *NOT_STRINGS)),
    ],
)
async def test_invalid_shipping_field_gets_422(api, sandbox, shipping, field, values):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 1)
    basket = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    for value in values:
        invalid = {**shipping, field: value}
        if value is ABSENT:
            del invalid[field]
        assert set((await api.complete(basket, "delivery", shipping=invalid)).errors) == {f"shipping.{field}"}
    required = {k: v for k, v in shipping.items() if k not in ("external_id", "street", "zipcode", "email")}
    assert (await api.complete(basket, "delivery", shipping=required)).status == 200


@pytest.mark.parametrize("value", [ABSENT, None, "home", 5, [], True])
async def test_shipping_that_is_no_object_gets_422(api, sandbox, value):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 1)
    basket = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    more = {} if value is ABSENT else {"shipping": value}
    assert set((await api.complete(basket, "delivery", **more)).errors) == {"shipping"}


QUERIES = {
    "products": {"page": ("0", "-1", "x", "1.5", " 1", "١"), "total": ("4", "101", "ten")},
    "orders": {
        "page": ("0", "x"),
        "total": ("4", "31"),
        "sortBy": ("id",),
        "sortType": ("up",),
        "status": ("x", "2,", "2;5"),
        "tx_type": ("oneoffpurchase", "buy,lend", "buy,"),
        "customer_external_id": ("x" * 111,),
        "orderId": ("0", "x"),
    },
    "balance": {
        "external_customer_id": (ABSENT, "", "x" * 111),
        "metal_type": ("platinum", "gold,", "gold, silver"),
        "is_deliverable": ("yes", "2"),
    },
    "basket": {"external_customer_id": (ABSENT, ""), "cart_token": ("x" * 31, "x" * 33)},
    "receipt": {"external_customer_id": (ABSENT, ""), "orderId": (ABSENT, "", "x", "0")},
    "rates": {"metal_type": ("platinum", "gold;silver")},
    "rates/history": {"currency_id": ("x", "1", "0"), "metal_type": ("iron",), "interval": ("minute", "Day")},
}
REQUIRED = {
    "balance": {"external_customer_id": "cust-1"},
    "basket": {"external_customer_id": "cust-1"},
    "receipt": {"external_customer_id": "cust-1", "orderId": "1"},
    "rates/history": {"currency_id": "1000013"},
}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [(name, field, value) for name, fields in QUERIES.items() for field, values in fields.items() for value in values],
)
async def test_invalid_query_parameter_gets_422(api, basket, name, field, value):
    query = {**REQUIRED.get(name, {}), field: value}
    if value is ABSENT:
        del query[field]
    assert set((await api.get(f"/partner/walletable/{name}", **query)).errors) == {field}


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("products", {"page": "1", "total": "5"}),
        ("products", {"page": "999999", "total": "100"}),
        ("products", {"page": "", "total": ""}),
        ("orders", {"total": "30", "page": "1", "sortBy": "total", "sortType": "asc", "status": "2,5"}),
        ("orders", {"total": "5", "startDate": "", "endDate": ""}),
        ("orders", {"customer_external_id": "x" * 110}),
        ("balance", {"external_customer_id": "cust-1", "metal_type": "gold,silver", "is_deliverable": "false"}),
        ("rates/history", {"metal_type": "silver", "interval": "week"}),
    ],
)
async def test_query_at_limits_is_accepted(api, basket, name, query):
    assert (await api.get(f"/partner/walletable/{name}", **query)).status == 200


@pytest.mark.parametrize(("name", "more"), [("orders", {}), ("rates/history", {"metal_type": "gold"})])
@pytest.mark.parametrize(
    ("dates", "fields"),
    [
        ({"startDate": "2026-02-01"}, {"endDate"}),
        ({"endDate": "2026-02-01"}, {"startDate"}),
        ({"startDate": "2026-02-30", "endDate": "2026-03-01"}, {"startDate"}),
        ({"startDate": "2026-02-01", "endDate": "01.03.2026"}, {"endDate"}),
        ({"startDate": "2026-02-02", "endDate": "2026-02-01"}, {"endDate"}),
        ({"startDate": "0001-01-01", "endDate": "9999-12-31"}, {"startDate", "endDate"}),
    ],
)
async def test_invalid_date_range_gets_422(api, name, more, dates, fields):
    assert set((await api.get(f"/partner/walletable/{name}", **dates, **more)).errors) == fields


async def test_history_without_metal_gets_422(api):
    assert set((await api.get("/partner/walletable/rates/history")).errors) == {"currency_id"}


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"', b"null", b"5", b"\xff", b'{"qty": NaN}', b"[" * 100_000])
async def test_body_that_is_no_json_object_gets_422(api, data):
    response = await api.send("POST", BASKET, data=data)
    assert set(response.errors) == {"body"}


async def test_body_with_other_content_type_gets_422(api):
    response = await api.send("POST", "/partner/customer", CUSTOMER, headers={"Content-Type": "text/plain"})
    assert set(response.errors) == {"body"}


async def test_missing_body_names_all_required_fields(api):
    assert set((await api.send("POST", BASKET)).errors) == {"external_customer_id", "sku", "qty"}


@pytest.mark.parametrize("value", [None, ""])
async def test_missing_client_id_gets_422(api, value):
    response = await api.send("GET", "/partner/walletable/rates", headers={"x-client-id": value})
    assert set(response.errors) == {"x-client-id"}


async def test_messages_follow_accept_language(api, basket):
    body = {**ADD, "qty": 0}
    turkish = await api.send("POST", BASKET, body)
    english = await api.send("POST", BASKET, body, headers={"Accept-Language": "en"})
    assert turkish.json["message"] == "Verilen veri geçersiz."
    assert turkish.errors == {"qty": ["qty en az 1 olmalıdır."]}
    assert english.json == {
        "data": None, "success": False, "code": 422, "message": "The given data was invalid.",
        "errors": {"qty": ["The qty must be at least 1."]},
    }  # fmt: skip


async def test_response_names_all_invalid_fields(api):
    response = await api.send("POST", "/partner/customer", {"external_id": "x", "gender": "Q", "email": 5})
    assert set(response.errors) == {"external_id", "gender", "email"}
