"""A function as password: asked at the first request, and once after the server has refused the credentials."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    AuthenticationFailed,
    ConfigurationError,
    Credentials,
    MintedConnect,
    NotSent,
    Options,
    RetryPolicy,
    Secret,
)
from minted_connect.sandbox import Sandbox

pytestmark = pytest.mark.anyio

GOLD = "MNTBAE0001"


class Vault:
    """Returns the credentials in use, and counts how often it is asked."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.asked = 0
        self.threads: set[int] = set()

    def get(self) -> Any:
        self.asked += 1
        self.threads.add(threading.get_ident())
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if isinstance(value, Exception):
            raise value
        return value

    async def aget(self) -> Any:
        await asyncio.sleep(0)
        return self.get()


@pytest.fixture(params=["plain", "async", "returns awaitable"])
def function_of(request: pytest.FixtureRequest) -> Callable[[Vault], Any]:
    return {
        "plain": lambda vault: vault.get,
        "async": lambda vault: vault.aget,
        "returns awaitable": lambda vault: lambda: vault.aget(),  # noqa: PLW0108
    }[request.param]


async def rotate(sandbox: Sandbox, password: str) -> None:
    """Make the server accept another password only."""
    sandbox.add_partner(sandbox.username, password)


async def test_function_is_asked_at_the_first_request_only(connect: Any, sandbox: Sandbox, function_of: Any):
    vault = Vault(sandbox.password)
    minted = await connect(sandbox.url, sandbox.username, function_of(vault))
    assert vault.asked == 0
    for _ in range(3):
        await minted.rates.current()
    await minted.with_options(language="en").products.page()
    assert vault.asked == 1


@pytest.mark.parametrize("wrap", [str, Secret, lambda text: Credentials("sandbox", text)])
async def test_function_returns_password_secret_or_credentials(connect: Any, sandbox: Sandbox, wrap: Any):
    minted = await connect(sandbox.url, sandbox.username, Vault(wrap(sandbox.password)).get)
    assert await minted.rates.current()


async def test_read_after_a_rotation_is_sent_again(connect: Any, sandbox: Sandbox, function_of: Any):
    vault = Vault(sandbox.password, "second-password")
    minted = await connect(sandbox.url, sandbox.username, function_of(vault))
    await minted.rates.current()
    await rotate(sandbox, "second-password")
    assert await minted.rates.current()
    assert vault.asked == 2
    await minted.rates.current()
    assert vault.asked == 2


async def test_64_calls_that_meet_a_rotation_ask_once(sandbox: Sandbox):
    vault = Vault(sandbox.password, "second-password")
    async with AsyncMintedConnect(sandbox.username, vault.aget, base_url=sandbox.url) as minted:
        await asyncio.gather(*(minted.rates.current() for _ in range(8)))
        assert vault.asked == 1
        await rotate(sandbox, "second-password")
        results = await asyncio.gather(*(minted.rates.current() for _ in range(64)))
    assert all(results)
    assert vault.asked == 2


async def test_same_password_again_is_not_sent_again(connect: Any, sandbox: Sandbox):
    vault = Vault("wrong-password")
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    for calls in (1, 2, 3):
        with pytest.raises(AuthenticationFailed):
            await minted.rates.current()
        assert vault.asked == calls
    vault.values = [sandbox.password]
    assert await minted.rates.current()


async def test_wrong_new_password_is_sent_once(connect: Any, sandbox: Sandbox):
    vault = Vault(sandbox.password, "wrong-password", sandbox.password)
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    await minted.rates.current()
    await rotate(sandbox, "third-password")
    before = len(sandbox.requests)
    with pytest.raises(AuthenticationFailed):
        await minted.rates.current()
    # Twice with the old credentials, as their nonce may be spent; once to get a challenge; once with the new ones.
    assert len(sandbox.requests) - before == 4
    assert vault.asked == 2


async def test_change_is_not_sent_again_and_the_next_call_asks(connect: Any, sandbox: Sandbox):
    vault = Vault(sandbox.password, "second-password")
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    await minted.rates.current()
    await rotate(sandbox, "second-password")
    with pytest.raises(AuthenticationFailed):
        await minted.customers.create("login-1")
    assert vault.asked == 1
    await minted.customers.create("login-1")
    assert vault.asked == 2


async def test_completion_that_meets_a_rotation_is_sent_once(connect: Any, sandbox: Sandbox):
    vault = Vault(sandbox.password, "second-password")
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    await minted.customers.create("login-2")
    basket = await minted.baskets.add_item("login-2", sku=GOLD)
    fault = sandbox.faults.add(
        "refusal", path="*/complete/buy", status=401, challenge="digest_other_realm", commit="never"
    )
    with pytest.raises(Exception, match=r"."):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    posts = [entry for entry in sandbox.requests if entry.operation == "complete.buy"]
    assert (len(posts), fault.hits, vault.asked) == (1, 1, 1)


async def test_purchase_after_a_rotation_uses_the_new_password(connect: Any, sandbox: Sandbox):
    vault = Vault(sandbox.password, "second-password")
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    await minted.customers.create("login-3")
    basket = await minted.baskets.add_item("login-3", sku=GOLD)
    await rotate(sandbox, "second-password")
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order is not None
    assert vault.asked == 2
    accepted = [entry for entry in sandbox.requests if entry.operation == "complete.buy" and entry.status == 200]
    assert len(accepted) == 1


async def test_other_username_needs_a_journal_account(connect: Any, sandbox: Sandbox):
    sandbox.add_partner("second-user", "second-password")
    vault = Vault(Credentials("second-user", "second-password"))
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    with pytest.raises(ConfigurationError, match=r"another user name.*Options\.journal_account"):
        await minted.rates.current()
    assert list(sandbox.requests) == []

    named = await connect(sandbox.url, sandbox.username, vault.get, options=Options(journal_account="shop"))
    assert await named.rates.current()
    assert sandbox.requests[-1].partner == "second-user"


async def test_error_of_the_function_is_typed_and_nothing_is_sent(connect: Any, sandbox: Sandbox, function_of: Any):
    vault = Vault(RuntimeError("canary"), sandbox.password)
    minted = await connect(sandbox.url, sandbox.username, function_of(vault))
    with pytest.raises(NotSent, match=r"password: .* raised RuntimeError; nothing was sent") as caught:
        await minted.rates.current()
    assert "canary" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(sandbox.requests) == []
    assert await minted.rates.current()


async def test_64_calls_share_a_failure_of_the_function(sandbox: Sandbox):
    vault = Vault(RuntimeError("down"))
    options = Options(pool_size=64)
    async with AsyncMintedConnect(sandbox.username, vault.aget, base_url=sandbox.url, options=options) as minted:
        results = await asyncio.gather(*(minted.rates.current() for _ in range(64)), return_exceptions=True)
    assert all(type(result) is NotSent for result in results)
    assert len({id(result) for result in results}) == 64
    assert len({str(result) for result in results}) == 1
    assert vault.asked == 1


async def test_failure_after_a_refusal_raises_the_refusal(connect: Any, sandbox: Sandbox):
    vault = Vault(sandbox.password, RuntimeError("down"), "second-password")
    minted = await connect(sandbox.url, sandbox.username, vault.get)
    await minted.rates.current()
    await rotate(sandbox, "second-password")
    with pytest.raises(AuthenticationFailed):
        await minted.rates.current()
    assert vault.asked == 2
    assert await minted.rates.current()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "must return str, Secret or Credentials, not NoneType"),
        (b"secret", "not bytes"),
        ("", "password: must be a non-empty string"),
        ("secret\n", "password: must not end in a line break"),
    ],
)
async def test_invalid_result_is_refused(connect: Any, sandbox: Sandbox, value: Any, problem: str):
    minted = await connect(sandbox.url, sandbox.username, Vault(value).get)
    with pytest.raises(ConfigurationError, match=problem):
        await minted.rates.current()
    assert list(sandbox.requests) == []


async def test_cancelled_call_lets_the_next_one_ask(sandbox: Sandbox):
    started = asyncio.Event()
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            started.set()
            await asyncio.sleep(3600)
        return sandbox.password

    async with AsyncMintedConnect(sandbox.username, ask, base_url=sandbox.url) as minted:
        first = asyncio.ensure_future(minted.rates.current())
        await started.wait()
        second = asyncio.ensure_future(minted.rates.current())
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert first.cancelled() or (await asyncio.wait({first}))[0]
    assert asked == 2


async def test_plain_function_runs_in_a_worker_thread(sandbox: Sandbox):
    vault = Vault(sandbox.password)
    async with AsyncMintedConnect(sandbox.username, vault.get, base_url=sandbox.url) as minted:
        await minted.rates.current()
    assert vault.threads.isdisjoint({threading.get_ident()})


async def test_error_masks_the_password_in_use(connect: Any, sandbox: Sandbox):
    vault = Vault("canary-wrong", sandbox.password)
    minted = await connect(sandbox.url, sandbox.username, vault.get, retry=RetryPolicy.none())
    sandbox.faults.add("success_false", path="*/rates", message=f"{sandbox.password} is known")
    with pytest.raises(Exception, match=r".") as caught:
        await minted.rates.current()
        await minted.rates.current()
    assert sandbox.password not in str(caught.value)
    assert "canary" not in f"{minted!r}{caught.value!r}"


@pytest.mark.parametrize("username", ["", 5, "a\nb"])
def test_username_is_checked_with_a_function(username: Any):
    for client in (AsyncMintedConnect, MintedConnect):
        with pytest.raises(ConfigurationError, match="username"):
            client(username, lambda: "secret")


def test_journal_account_is_that_of_the_username():
    one, other = AsyncMintedConnect("partner", "secret"), AsyncMintedConnect("partner", lambda: "secret")
    assert one._api.account == other._api.account
