"""The fixture `minted_client` in fixtures of the user, on event loops of any scope, and in test cases of unittest."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.plugin.test_plugin import run_pytest

ANYIO = ("-p", "no:asyncio")
ASYNCIO = ("-p", "pytest_asyncio", "-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function")
needs_pytest_asyncio = pytest.mark.skipif(find_spec("pytest_asyncio") is None, reason="needs pytest-asyncio")

PREAMBLE = """
    import asyncio
    import gc
    import unittest

    import pytest

    from minted_connect import ClientClosedError

    clients = []

    async def buy(minted, customer):
        await minted.customers.create(customer)
        basket = await minted.baskets.add_item(customer, sku="MNTBAE0001")
        return await minted.complete.buy(basket, expected_total=basket.paid_total)

    def assert_closed():
        gc.collect()
        client = clients.pop()
        with pytest.raises(ClientClosedError, match="is closed"):
            asyncio.run(client.rates.current())
"""


def run(folder: Path, code: str, plugins: tuple[str, ...], passed: int) -> None:
    result = run_pytest(folder, textwrap.dedent(PREAMBLE) + textwrap.dedent(code), *plugins)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{passed} passed" in result.stdout
    assert "Warning" not in result.stdout + result.stderr


TEARDOWN = """
    @fixture
    async def shop(minted_client):
        clients.append(minted_client)
        await buy(minted_client, "customer-1")
        yield minted_client
        assert (await minted_client.orders.page(customer_id="customer-1")).total == 2
        await buy(minted_client, "customer-2")

    @mark
    async def test_uses_the_client(shop):
        basket = await shop.baskets.add_item("customer-1", sku="MNTBAE0001")
        await shop.complete.buy(basket, expected_total=basket.paid_total)

    def test_client_is_closed_afterwards():
        assert_closed()

    @fixture
    async def late(minted_client):
        clients.append(minted_client)
        yield
        await buy(minted_client, "customer-1")

    @mark
    async def test_only_the_teardown_uses_the_client(late):
        pass

    def test_client_of_the_teardown_is_closed():
        assert_closed()

    @mark
    async def test_without_fixture(minted_client):
        clients.append(minted_client)
        await buy(minted_client, "customer-1")

    def test_client_without_fixture_is_closed():
        assert_closed()
"""
ANYIO_BACKEND = """
    fixture, mark = pytest.fixture, pytest.mark.anyio

    @pytest.fixture(scope="{scope}")
    def anyio_backend():
        return "asyncio"
"""


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_client_in_teardown_on_anyio_works(tmp_path: Path, scope: str) -> None:
    run(tmp_path, ANYIO_BACKEND.format(scope=scope) + TEARDOWN, ANYIO, passed=6)


@pytest.mark.parametrize("scope", ["module", "session"])
def test_client_on_anyio_loop_of_wider_scope_works(tmp_path: Path, scope: str) -> None:
    loop = f"""
    @pytest.fixture(scope="{scope}", autouse=True)
    async def loop(anyio_backend):
        yield asyncio.get_running_loop()
        assert len(clients) == 0
    """
    run(tmp_path, ANYIO_BACKEND.format(scope=scope) + loop + TEARDOWN, ANYIO, passed=6)


@needs_pytest_asyncio
@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_client_in_teardown_on_pytest_asyncio_works(tmp_path: Path, scope: str) -> None:
    header = f"""
    import pytest_asyncio
    fixture = pytest_asyncio.fixture(loop_scope="{scope}")
    mark = pytest.mark.asyncio(loop_scope="{scope}")
    """
    run(tmp_path, header + TEARDOWN, ASYNCIO, passed=6)


@needs_pytest_asyncio
def test_client_in_auto_mode_of_pytest_asyncio_works(tmp_path: Path) -> None:
    header = """
    fixture, mark = pytest.fixture, lambda test: test
    """
    run(tmp_path, header + TEARDOWN, (*ASYNCIO, "-o", "asyncio_mode=auto"), passed=6)


def test_client_on_a_second_loop_is_refused(tmp_path: Path) -> None:
    code = """
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.anyio
    async def test_it(minted_client, anyio_backend):
        await minted_client.rates.current()
        def use():
            with pytest.raises(ClientClosedError, match="belongs to another event loop"):
                asyncio.run(minted_client.rates.current())
        await asyncio.to_thread(use)
        await minted_client.rates.current()
    """
    run(tmp_path, code, ANYIO, passed=1)


def test_failed_teardown_is_reported(tmp_path: Path) -> None:
    code = """
    @pytest.fixture
    async def shop(minted_client, anyio_backend):
        clients.append(minted_client)
        yield minted_client
        await minted_client.customers.get("missing-1")

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.anyio
    async def test_it(shop, anyio_backend):
        await shop.rates.current()

    def test_client_is_closed_afterwards():
        assert_closed()
    """
    result = run_pytest(tmp_path, textwrap.dedent(PREAMBLE) + textwrap.dedent(code), *ANYIO)
    assert "2 passed, 1 error" in result.stdout, result.stdout
    assert "NotFound" in result.stdout
    assert "ResourceWarning" not in result.stdout + result.stderr


def test_client_in_test_case_of_unittest_works(tmp_path: Path) -> None:
    code = """
    class TestShop(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def use_client(self, minted_client):
            clients.append(minted_client)
            self.minted = minted_client

        async def asyncSetUp(self):
            self.addAsyncCleanup(buy, self.minted, "customer-3")
            await buy(self.minted, "customer-1")

        async def test_it(self):
            assert (await self.minted.orders.page()).total == 1

        async def asyncTearDown(self):
            await buy(self.minted, "customer-2")

    def test_client_is_closed_afterwards():
        assert_closed()
    """
    run(tmp_path, code, ANYIO, passed=2)


UNITTEST = """
import unittest

from minted_connect import AsyncMintedConnect, ClientClosedError, MintedConnect
from minted_connect.sandbox import ThreadedSandbox

closed = []


class TestAsync(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        sandbox = self.enterContext(ThreadedSandbox())
        self.other = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)

    async def asyncSetUp(self):
        self.minted = await self.enterAsyncContext(AsyncMintedConnect.sandbox())
        self.addAsyncCleanup(self.other.aclose)
        self.addAsyncCleanup(self.other.rates.current)
        await self.minted.customers.create("customer-1")

    async def test_buy(self):
        basket = await self.minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        await self.minted.complete.buy(basket, expected_total=basket.paid_total)
        await self.other.rates.current()

    async def test_second(self):
        await self.minted.rates.current()

    async def asyncTearDown(self):
        await self.minted.rates.current()
        closed.append(self.minted)


class TestBlocking(unittest.TestCase):
    def setUp(self):
        self.minted = self.enterContext(MintedConnect.sandbox())
        self.addCleanup(self.minted.rates.current)

    def test_rates(self):
        self.minted.rates.current()

    def tearDown(self):
        self.minted.rates.current()


class TestInLoop(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.minted = self.enterContext(MintedConnect.sandbox())

    async def test_blocking_client(self):
        self.minted.rates.current()


class TestZClosed(unittest.IsolatedAsyncioTestCase):
    async def test_closed(self):
        self.assertEqual(len(closed), 2)
        for client in closed:
            with self.assertRaises(ClientClosedError):
                await client.rates.current()
"""


def test_unittest_runs_the_clients(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(UNITTEST, "utf-8")
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "unittest", "-q", "test_shop"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=50, check=False)
    assert result.returncode == 0, result.stderr
    assert "Ran 5 tests" in result.stderr
    assert "Warning" not in result.stderr
