"""A client for the tests of the sandbox with its own Digest, which uses no code of the SDK, and clients of the SDK."""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from minted_connect import CompletionPolicy, Options
from minted_connect.sandbox import ManualClock, Sandbox

HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def authorization(challenge, username, password, method, target, nc=1, body=b"", cnonce="c0ffee", changed=()):
    """Return the header for one challenge line; `changed` replaces parameters after the response was computed."""
    given = {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|[^\s,]+)', challenge)}
    algorithm = given.get("algorithm", "MD5")

    def h(data):
        data = data.encode() if isinstance(data, str) else data
        return hashlib.new(HASHES[algorithm.removesuffix("-sess")], data).hexdigest()

    count = nc if isinstance(nc, str) else f"{nc:08x}"
    qop = given.get("qop", "").split(",")[-1]
    a1 = h(f"{username}:{given['realm']}:{password}")
    if algorithm.endswith("-sess"):
        a1 = h(f"{a1}:{given['nonce']}:{cnonce}")
    a2 = h(f"{method}:{target}" + (f":{h(body)}" if qop == "auth-int" else ""))
    middle = f"{given['nonce']}:{count}:{cnonce}:{qop}" if qop else given["nonce"]
    fields = {
        "username": username,
        "realm": given["realm"],
        "nonce": given["nonce"],
        "uri": target,
        "algorithm": algorithm,
        "response": h(f"{a1}:{middle}:{a2}"),
        "opaque": given["opaque"],
    }
    if qop:
        fields |= {"qop": qop, "nc": count, "cnonce": cnonce}
    fields |= dict(changed)
    return "Digest " + ", ".join(f'{key}="{value}"' for key, value in fields.items() if value is not None)


@dataclass
class ApiResponse:
    status: int
    headers: object
    text: str

    @property
    def json(self):
        return json.loads(self.text, parse_float=Decimal)

    @property
    def data(self):
        assert self.status == 200, self.text
        return self.json["data"]

    @property
    def errors(self):
        assert self.status == 422, self.text
        body = self.json
        assert (body["data"], body["success"], body["code"]) == (None, False, 422)
        assert body["message"]
        return body["errors"]


class Api:
    """Sends requests as one partner."""

    def __init__(self, url, username, password, session):
        self.url, self.username, self.password, self.session = url, username, password, session
        self.challenge, self.nc = None, 0

    async def send(self, method, path, body=None, *, query=None, headers=None, data=None):
        target = path + (f"?{urlencode(query)}" if query else "")
        headers = {"x-client-id": "web", **(headers or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        for _ in range(2):
            if self.challenge:
                self.nc += 1
                headers["Authorization"] = authorization(
                    self.challenge, self.username, self.password, method, target, self.nc, data or b""
                )
            url = URL(self.url + target, encoded=True)
            async with self.session.request(
                method, url, data=data, headers=headers, allow_redirects=False, skip_auto_headers=["Content-Type"]
            ) as response:
                received = ApiResponse(response.status, response.headers.copy(), (await response.read()).decode())
            if received.status != 401 or (self.challenge and "stale=true" not in str(received.headers)):
                break
            digests = [line for line in received.headers.getall("WWW-Authenticate") if line.startswith("Digest")]
            self.challenge, self.nc = digests[0], 0
        return received

    async def get(self, path, **query):
        return await self.send("GET", path, query={k: v for k, v in query.items() if v is not None})

    async def create_customer(self, external_id="cust-1", **fields):
        person = {"firstname": "Brant", "middlename": "", "lastname": "Ankunding", **fields}
        return (await self.send("POST", "/partner/customer", {"external_id": external_id, **person})).data

    async def add_item(self, sku="MNTBAE0001", qty=1, customer="cust-1", **more):
        body = {"external_customer_id": customer, "sku": sku, "qty": qty, **more}
        return await self.send("POST", "/partner/walletable/basket", body)

    async def complete(self, basket, kind="buy", **more):
        body = {"external_customer_id": basket["customer"]["external_id"], "cart_token": basket["token"], **more}
        return await self.send("POST", f"/partner/walletable/complete/{kind}", body)

    async def buy(self, sku="MNTBAE0001", qty=1, customer="cust-1"):
        return (await self.complete((await self.add_item(sku, qty, customer)).data)).data


SHIPPING = {
    "external_id": None,
    "tax_number": "12345678910",
    "fullname": "Ahmet Özer",
    "phone": "+905550001122",
    "email": "ahmet.ozer@example.com",
    "city": "İstanbul",
    "county": "Çekmeköy",
    "district": "Alemdağ",
    "street": "Bulunmaz Sk.",
    "zipcode": "34711",
    "address": "No:1 D:2",
}


@pytest.fixture
def shipping():
    return dict(SHIPPING)


@pytest.fixture
def digest_header():
    return authorization


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def serving(clock):
    """Serve a sandbox with these options and seed 1, and a client: `async with serving(...) as (sandbox, api)`."""

    @contextlib.asynccontextmanager
    async def serve(**options):
        async with Sandbox(**{"clock": clock, "seed": 1, **options}) as sandbox, aiohttp.ClientSession() as session:
            # aiohttp retries a GET when the connection drops; that would hide faults.
            session._retry_connection = False
            yield sandbox, Api(sandbox.url, sandbox.username, sandbox.password, session)

    return serve


@pytest.fixture
async def served(serving):
    async with serving() as pair:
        yield pair


@pytest.fixture
def sandbox(served):
    return served[0]


@pytest.fixture
def api(served):
    return served[1]


@pytest.fixture
async def serve(connect):
    """Return a function that starts a sandbox, and connects either client of the SDK to it, on the same clock."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(pool_size=20, breaker=None, **options):
            clock = ManualClock(auto_advance=True)
            sandbox = await stack.enter_async_context(Sandbox(seed=1, clock=clock, **options))
            policy = CompletionPolicy(orders_lag=4.0)
            given = Options(clock=clock, completion=policy, pool_size=pool_size, breaker=breaker)
            client = await connect(sandbox.url, sandbox.username, sandbox.password, options=given)
            await client.customers.create("customer-1")
            return sandbox, client

        yield start
