"""Programs that import a client and make one authenticated GET."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["STARTS"]

STARTS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "aiohttp, DigestAuthMiddleware, json.loads": (
        ("aiohttp",),
        """
import asyncio, sys, aiohttp
async def main(url, user, password, customer):
    async with aiohttp.ClientSession(middlewares=(aiohttp.DigestAuthMiddleware(user, password),)) as session:
        async with session.get(f"{url}/partner/walletable/basket?external_customer_id={customer}") as response:
            await response.json()
asyncio.run(main(*sys.argv[1:]))
""",
    ),
    "SDK: typed, exact, signed": (
        (),
        """
import asyncio, sys
from minted_connect import AsyncMintedConnect
async def main(url, user, password, customer):
    async with AsyncMintedConnect(user, password, base_url=url) as minted:
        await minted.baskets.get_active(customer)
asyncio.run(main(*sys.argv[1:]))
""",
    ),
    "httpx, DigestAuth, pydantic": (
        ("httpx", "pydantic"),
        """
import sys, httpx, pydantic
class Envelope(pydantic.BaseModel):
    data: dict
    success: bool
url, user, password, customer = sys.argv[1:]
with httpx.Client(auth=httpx.DigestAuth(user, password)) as client:
    response = client.get(f"{url}/partner/walletable/basket?external_customer_id={customer}")
Envelope.model_validate_json(response.content)
""",
    ),
    "requests, HTTPDigestAuth": (
        ("requests",),
        """
import sys, requests
from requests.auth import HTTPDigestAuth
url, user, password, customer = sys.argv[1:]
session = requests.Session()
session.trust_env = False
auth = HTTPDigestAuth(user, password)
session.get(f"{url}/partner/walletable/basket?external_customer_id={customer}", auth=auth).json()
""",
    ),
}
"""For each contender the packages it needs, and a program with the arguments URL, user name, password, customer."""
