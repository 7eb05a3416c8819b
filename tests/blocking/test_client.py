"""The blocking client over HTTP: threads, Ctrl-C, forks, the feed, and purchases whose outcome is not known."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent
from typing import Any, Self

import pytest

from minted_connect import MintedConnect, Timeouts
from minted_connect.errors import ClientClosedError, ConfigurationError, NotFound, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Intent
from minted_connect.sandbox import ManualClock, ThreadedSandbox

from .conftest import PATIENCE, loop_threads

GOLD = "MNTBAE0001"
RATES = "*/rates"
BUY = "*/complete/buy"


@pytest.fixture
def sandbox():
    with ThreadedSandbox(seed=1) as sandbox:
        yield sandbox


@pytest.fixture
def minted(sandbox):
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        yield minted


def basket_of(minted: MintedConnect, customer: str = "customer-1") -> Basket:
    minted.customers.create(
        customer, firstname="Ada", lastname="Lovelace", phone="5551234567", identity_number="12345678901"
    )
    return minted.baskets.add_item(customer, sku=GOLD, qty=2)


def until(condition: Any) -> None:
    """Wait for something that another process or thread is about to do."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen")


class TestCalls:
    def test_a_purchase_from_end_to_end(self, minted):
        basket = basket_of(minted)
        done = minted.complete.buy(basket, expected_total=basket.paid_total)

        assert minted.orders.get(done.order.id, customer_id="customer-1") == done.order
        assert [order.id for order in minted.orders.iterate()] == [done.order.id]
        assert minted.complete.pending() == []

    def test_products_are_walked_a_page_at_a_time(self, minted, sandbox):
        products = list(minted.products.iterate(per_page=5))
        asked = [request for request in sandbox.requests if request.status == 200]

        assert len(products) == minted.products.page().total
        assert len(asked) == -(-len(products) // 5)
        assert [product for page in minted.products.pages(per_page=5) for product in page] == products

    def test_eight_threads_share_one_client(self, minted):
        def work(number: int) -> list[str]:
            name = f"customer-{number}"
            minted.customers.create(
                name, firstname="Ada", lastname="Lovelace", phone="5551234567", identity_number="12345678901"
            )
            return [minted.customers.get(name).external_id for _ in range(5)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [[f"customer-{number}"] * 5 for number in range(8)]

    def test_it_works_inside_a_running_loop_as_in_a_notebook(self, minted):
        async def cell() -> int:
            return len(minted.rates.current())

        assert asyncio.run(cell()) > 0

    def test_errors_come_as_they_are(self, minted):
        with pytest.raises(NotFound) as caught:
            minted.customers.get("nobody")

        assert caught.value.status == 404

    def test_raw_requests(self, minted):
        assert minted.request("GET", "/partner/walletable/rates").status == 200
        with pytest.raises(ConfigurationError, match=r"complete\.buy"):
            minted.request("POST", "/partner/walletable/complete/buy", json={})

    def test_watching_an_order(self, sandbox):
        clock = ManualClock(auto_advance=True)
        with MintedConnect.sandbox(clock=clock) as minted:
            basket = basket_of(minted)
            order = minted.complete.buy(basket, expected_total=basket.paid_total).order
            final = minted.orders.wait(order, timeout=86_400)
            seen = list(minted.orders.watch(order))

        assert final.is_final
        assert seen[-1].after.status == final.status

    def test_from_env(self, sandbox, monkeypatch):
        for name, value in (("USERNAME", sandbox.username), ("PASSWORD", sandbox.password), ("BASE_URL", sandbox.url)):
            monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)

        with MintedConnect.from_env(timeouts=Timeouts(read=5)) as minted:
            assert minted.rates.current()


class TestSandbox:
    def test_gives_a_client_and_its_server(self):
        with MintedConnect.sandbox(seed=7) as minted:
            assert minted.rates.current()
            assert len(minted.sandbox_server.requests) > 0
            sibling = minted.with_options(language="en")
            assert sibling.sandbox_server is minted.sandbox_server

    def test_other_clients_have_none(self, minted):
        with pytest.raises(ConfigurationError, match="no sandbox"):
            _ = minted.sandbox_server

    def test_a_subclass_gives_itself(self):
        class Mine(MintedConnect):
            pass

        with Mine.sandbox() as minted:
            assert type(minted) is Mine
            assert type(minted.with_options(language="en")) is Mine
            assert "Mine" in repr(minted)


class TestSiblings:
    def test_differ_in_settings_and_share_the_thread(self, minted, sandbox):
        minted.with_options(language="en").rates.current()
        minted.rates.current()

        assert [sandbox.requests[-2].headers["accept-language"], sandbox.requests[-1].headers["accept-language"]] == [
            "en",
            "tr",
        ]
        assert len(loop_threads()) == 1

    def test_closing_a_copy_does_nothing_closing_the_client_all(self, minted):
        sibling = minted.with_options(deadline=5)
        with sibling:
            pass
        assert sibling.rates.current()
        minted.close()
        with pytest.raises(ClientClosedError):
            sibling.rates.current()

    def test_copy_works_after_the_original_was_collected(self, sandbox):
        sibling = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url).with_options(language="en")
        gc.collect()
        assert sibling.rates.current()
        with pytest.warns(ResourceWarning, match="unclosed MintedConnect"):
            del sibling
            gc.collect()
        until(lambda: not loop_threads())


class TestClose:
    def test_use_afterwards_is_refused(self, minted):
        minted.close()
        minted.close()
        with pytest.raises(ClientClosedError, match="this MintedConnect is closed"):
            minted.rates.current()

    @pytest.mark.parametrize(("journal", "times"), [(None, 1), (MemoryJournal(), 0)], ids=["its own", "a lent one"])
    def test_one_that_was_never_used_closes_its_own_journal_only(self, monkeypatch, journal, times):
        closed = []

        async def aclose(journal: MemoryJournal) -> None:
            closed.append(journal)

        monkeypatch.setattr(MemoryJournal, "aclose", aclose)
        with MintedConnect("partner", "secret", journal=journal):
            pass

        assert len(closed) == times

    def test_the_server_sees_the_connections_go(self):
        with Silent() as server:
            minted = MintedConnect("partner", "secret", base_url=server.url)
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(minted.rates.current)
                server.accept()
                minted.close()
                assert isinstance(call.exception(PATIENCE), ClientClosedError)
            assert server.sees_the_end()

    def test_leaving_the_body_with_an_error_keeps_the_error(self, monkeypatch):
        async def aclose(_: MemoryJournal) -> None:
            raise OSError("disk")

        monkeypatch.setattr(MemoryJournal, "aclose", aclose)
        minted = MintedConnect("partner", "secret")
        with pytest.raises(ZeroDivisionError) as caught, minted:
            raise ZeroDivisionError

        assert caught.value.__notes__ == ["Closing failed too: OSError('disk')"]
        with pytest.raises(OSError, match="disk"), MintedConnect("partner", "secret"):
            pass

    def test_a_forgotten_client_is_collected_and_warns_once(self, sandbox, monkeypatch):
        seen = []
        # Not `pytest.warns`: what it records holds the client.
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: seen.append(str(message)))
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
        minted.rates.current()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            del minted
            gc.collect()
            until(lambda: not loop_threads())
            gc.collect()

        assert seen == ["unclosed MintedConnect: use `with`, or call close()"]


class Silent:
    """A server that reads requests and sends no response."""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self._connection = self._socket  # so that there is a socket to close without any connection
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def accept(self) -> bytes:
        """Wait for a request and return it."""
        self._connection, _ = self._socket.accept()
        self._connection.settimeout(PATIENCE)
        return self._connection.recv(65_536)

    def sees_the_end(self) -> bool:
        """Wait until the client closes the connection."""
        return self._connection.recv(65_536) == b""

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._socket.close()


class TestProcess:
    """Real signals and forks, on the real client."""

    def test_ctrl_c_closes_the_connection_before_the_process_goes_on(self, script):
        with Silent() as server:
            process = script(
                dedent(
                    """
                    import sys
                    from minted_connect import MintedConnect

                    minted = MintedConnect("partner", "secret", base_url=sys.argv[1])
                    try:
                        minted.rates.current()
                    except KeyboardInterrupt:
                        print("interrupted", flush=True)
                        sys.stdin.read()
                        minted.close()
                        raise
                    """
                ),
                server.url,
            )
            with process:
                assert server.accept().startswith(b"GET /partner/walletable/rates ")
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "interrupted\n"
                assert server.sees_the_end()
                _, err = process.communicate(timeout=PATIENCE)

        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")

    def test_ctrl_c_in_a_purchase_names_the_pending_intent(self, script, sandbox, minted, tmp_path):
        basket = basket_of(minted)
        journal = tmp_path / "journal.db"
        fault = sandbox.faults.add("hang", path=BUY, commit=True)
        process = script(
            dedent(
                """
                import sys
                from decimal import Decimal
                from minted_connect import MintedConnect

                url, username, password, journal, token = sys.argv[1:]
                with MintedConnect(username, password, base_url=url, journal=journal) as minted:
                    basket = minted.baskets.get_active("customer-1", cart_token=token)
                    try:
                        minted.complete.buy(basket, expected_total=basket.paid_total)
                    except KeyboardInterrupt as interrupt:
                        print(interrupt.__notes__, flush=True)
                """
            ),
            sandbox.url,
            sandbox.username,
            sandbox.password,
            str(journal),
            basket.token,
        )
        with process:
            until(lambda: fault.waiting)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=PATIENCE)
        fault.remove()
        assert process.returncode == 0

        with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as later:
            (intent,) = later.complete.pending()
            assert intent.id in out
            done = later.complete.reconcile(intent)
            assert done.reconciled
            assert later.complete.pending() == []
        assert len(sandbox.shop.orders) == 1

    def test_a_fork_is_refused_and_the_parent_goes_on(self, finished, sandbox):
        status, out, err = finished(
            dedent(
                """
                import os, sys
                from minted_connect import ClientClosedError, MintedConnect

                url, username, password = sys.argv[1:]
                minted = MintedConnect(username, password, base_url=url)
                minted.rates.current()
                pid = os.fork()
                if pid == 0:
                    with minted:
                        try:
                            minted.rates.current()
                        except ClientClosedError as error:
                            print(error, flush=True)
                    with MintedConnect(username, password, base_url=url) as own:
                        print(len(own.rates.current()) > 0, flush=True)
                    os._exit(5)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(minted.rates.current()) > 0)
                minted.close()
                """
            ),
            sandbox.url,
            sandbox.username,
            sandbox.password,
        )
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            "this MintedConnect was built before a fork of the process: build one in each process",
            "True",
            "5 True",
        ]

    def test_a_forked_child_that_merely_exits_does_so_quietly(self, finished, sandbox):
        status, out, err = finished(
            dedent(
                """
                import os, sys
                from minted_connect import MintedConnect

                url, username, password = sys.argv[1:]
                minted = MintedConnect(username, password, base_url=url)
                minted.rates.current()
                pid = os.fork()
                if pid == 0:
                    sys.exit(5)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(minted.rates.current()) > 0)
                minted.close()
                """
            ),
            sandbox.url,
            sandbox.username,
            sandbox.password,
            warnings="ignore",
        )
        assert (status, out, err) == (0, "5 True\n", "")

    def test_unclosed_feed_exits_and_closes_its_connections(self, finished, sandbox):
        source = """
            import sys
            from minted_connect import MintedConnect

            url, username, password = sys.argv[1:]
            minted = MintedConnect(username, password, base_url=url)
            feed = minted.rates.feed(interval=0.01).__enter__()
            next(feed.subscribe())
            print("end", flush=True)
            """
        run = (dedent(source), sandbox.url, sandbox.username, sandbox.password)

        assert finished(*run, warnings="ignore") == (0, "end\n", "")
        status, _, err = finished(*run, warnings="default")
        assert status == 0
        (warning,) = [line for line in err.splitlines() if "Warning:" in line]
        assert warning.endswith("ResourceWarning: unclosed MintedConnect: use `with`, or call close()")


class TestOutcomeUnknown:
    def test_is_reconciled_without_await(self, minted, sandbox):
        basket = basket_of(minted)
        sandbox.faults.add("drop_after_commit", path=BUY, times=1)

        with pytest.raises(OutcomeUnknown) as caught:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        assert isinstance(caught.value.intent, Intent)
        assert [intent.id for intent in minted.complete.pending()] == [caught.value.intent.id]

        done = minted.complete.reconcile(caught.value)
        assert done.reconciled
        assert minted.complete.pending() == []

    def test_closing_in_the_middle_of_a_purchase_names_the_intent(self, minted, sandbox):
        basket = basket_of(minted)
        fault = sandbox.faults.add("hang", path=BUY)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(minted.complete.buy, basket, expected_total=basket.paid_total)
            until(lambda: fault.waiting)
            minted.close()
            error = call.exception(PATIENCE)
        fault.remove()

        assert isinstance(error, ClientClosedError)
        assert "intent" in error.__notes__[0]


class TestFeed:
    def test_ticks_come_and_the_end_is_the_end(self, minted):
        with minted.rates.feed(interval=0.01) as feed:
            ticks = feed.subscribe(metal="gold")
            first, second = next(ticks), next(ticks)
            assert first.rate.metal_type == second.rate.metal_type == "gold"
            assert feed.latest(metal="gold").observed_at >= first.observed_at
            assert feed.wait_for(lambda tick: tick.rate.metal_type == "silver", timeout=PATIENCE).buy > 0
            assert (feed.failures, feed.last_error, feed.is_breaker_open) == (0, None, False)
        assert list(ticks) == []
        assert feed.latest() is not None

    @pytest.mark.parametrize("buffer", [None, 1])
    @pytest.mark.parametrize("closes", ["feed", "subscription"])
    def test_closing_from_another_thread_ends_the_iteration(self, minted, buffer, closes):
        seen = threading.Event()
        with minted.rates.feed(interval=3600) as feed:
            ticks = feed.subscribe(sku=GOLD, buffer=buffer)

            def listen() -> int:
                count = 0
                for _ in ticks:
                    count += 1
                    seen.set()
                return count

            with ThreadPoolExecutor(1) as pool:
                listening = pool.submit(listen)
                assert seen.wait(PATIENCE)
                (feed if closes == "feed" else ticks).close()
                assert listening.result(PATIENCE) == 1
            assert ticks.dropped == 0

    def test_many_threads_subscribe_to_one_poller(self, minted, sandbox):
        with minted.rates.feed(interval=3600) as feed, ThreadPoolExecutor(8) as pool:
            ticks = list(pool.map(lambda _: next(feed.subscribe(sku=GOLD)), range(8)))

        assert len({tick.observed_at for tick in ticks}) == 1
        assert len([request for request in sandbox.requests if request.status == 200]) == 1

    def test_closing_the_client_ends_it_with_the_reason(self, minted):
        begun = threading.Event()

        def listen() -> None:
            for _ in minted.rates.feed(interval=3600).__enter__().subscribe(sku=GOLD):
                begun.set()

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            assert begun.wait(PATIENCE)
            minted.close()
            assert isinstance(listening.exception(PATIENCE), ClientClosedError)

    def test_closing_twice_and_after_the_client_is_fine(self, minted):
        with minted.rates.feed(interval=3600) as feed:
            ticks = feed.subscribe()
            feed.close()
            feed.close()
        minted.close()
        feed.close()
        ticks.close()

    def test_what_the_body_raises_is_kept(self, minted):
        with pytest.raises(ZeroDivisionError), minted.rates.feed(interval=1):
            minted.close()
            raise ZeroDivisionError

    def test_condition_that_uses_the_client_is_refused(self, minted):
        with (
            minted.rates.feed(interval=3600) as feed,
            pytest.raises(ConfigurationError, match="own loop thread"),
        ):
            feed.wait_for(lambda _: bool(minted.rates.current()), timeout=PATIENCE)
