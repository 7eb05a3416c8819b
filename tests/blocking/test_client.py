"""The blocking client over HTTP: threads, Ctrl-C, forks, the feed, and purchases with an unknown outcome."""

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

from minted_connect import AsyncMintedConnect, MintedConnect, RetryPolicy, Timeouts
from minted_connect.errors import ClientClosedError, ConfigurationError, NotFound, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Intent
from minted_connect.sandbox import ManualClock, ThreadedSandbox

from .conftest import TIMEOUT, loop_threads

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


def create_basket(minted: MintedConnect, customer: str = "customer-1") -> Basket:
    minted.customers.create(
        customer, firstname="Ada", lastname="Lovelace", phone="5551234567", identity_number="12345678901"
    )
    return minted.baskets.add_item(customer, sku=GOLD, qty=2)


def wait_until(condition: Any) -> None:
    """Wait until another process or thread makes a condition true."""
    waiting = threading.Event()
    for _ in range(int(TIMEOUT / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("the condition did not become true in time")


class TestCalls:
    def test_purchase_returns_confirmed_order(self, minted):
        basket = create_basket(minted)
        completion = minted.complete.buy(basket, expected_total=basket.paid_total)

        assert minted.orders.get(completion.order.id, customer_id="customer-1") == completion.order
        assert [order.id for order in minted.orders.iterate()] == [completion.order.id]
        assert minted.complete.pending() == []

    def test_iterate_fetches_one_page_at_a_time(self, minted, sandbox):
        products = list(minted.products.iterate(per_page=5))
        requests = [request for request in sandbox.requests if request.status == 200]

        assert len(products) == minted.products.page().total
        assert len(requests) == -(-len(products) // 5)
        assert [product for page in minted.products.pages(per_page=5) for product in page] == products

    def test_client_works_in_eight_threads(self, minted):
        def work(number: int) -> list[str]:
            name = f"customer-{number}"
            minted.customers.create(
                name, firstname="Ada", lastname="Lovelace", phone="5551234567", identity_number="12345678901"
            )
            return [minted.customers.get(name).external_id for _ in range(5)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [[f"customer-{number}"] * 5 for number in range(8)]

    def test_client_works_inside_a_running_loop(self, minted):
        async def cell() -> int:
            return len(minted.rates.current())

        assert asyncio.run(cell()) > 0

    def test_error_of_the_server_is_raised_unchanged(self, minted):
        with pytest.raises(NotFound) as caught:
            minted.customers.get("nobody")

        assert caught.value.status == 404

    def test_raw_request_of_read_works_and_of_purchase_is_refused(self, minted):
        assert minted.request("GET", "/partner/walletable/rates").status == 200
        with pytest.raises(ConfigurationError, match=r"complete\.buy"):
            minted.request("POST", "/partner/walletable/complete/buy", json={})

    def test_wait_and_watch_end_with_the_final_status(self, sandbox):
        clock = ManualClock(auto_advance=True)
        with MintedConnect.sandbox(clock=clock) as minted:
            basket = create_basket(minted)
            order = minted.complete.buy(basket, expected_total=basket.paid_total).order
            final = minted.orders.wait(order, timeout=86_400)
            seen = list(minted.orders.watch(order))

        assert final.is_final
        assert seen[-1].after.status == final.status

    def test_from_env_reads_credentials_and_url(self, sandbox, monkeypatch):
        for name, value in (("USERNAME", sandbox.username), ("PASSWORD", sandbox.password), ("BASE_URL", sandbox.url)):
            monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)

        with MintedConnect.from_env(timeouts=Timeouts(read=5)) as minted:
            assert minted.rates.current()

    @pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
    def test_from_env_argument_replaces_the_variable(self, client, monkeypatch, tmp_path):
        for name in ("USERNAME", "PASSWORD"):
            monkeypatch.setenv(f"MINTED_CONNECT_{name}", "partner")
        monkeypatch.setenv("MINTED_CONNECT_BASE_URL", "https://variable.example")
        monkeypatch.setenv("MINTED_CONNECT_JOURNAL", str(tmp_path / "missing" / "journal.db"))
        retry, journal = RetryPolicy.none(), MemoryJournal()
        minted = client.from_env(
            base_url="https://argument.example", language="en", client_id="shop", retry=retry, journal=journal
        )
        inner = getattr(minted, "_inner", minted)
        settings = inner._api.settings
        assert (settings.language, settings.client_id, settings.retry) == ("en", "shop", retry)
        assert "argument.example" in repr(minted)
        assert inner._settlement.journal is journal

    @pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
    def test_from_env_refuses_invalid_arguments(self, client, monkeypatch):
        for name in ("USERNAME", "PASSWORD"):
            monkeypatch.setenv(f"MINTED_CONNECT_{name}", "partner")
        for wrong in ({"language": "a\nb"}, {"retry": 3}, {"journal": 5}, {"base_url": "ftp://x"}, {"proxy": "x"}):
            with pytest.raises(ConfigurationError):
                client.from_env(**wrong)


class TestSandbox:
    def test_sandbox_returns_client_with_its_server(self):
        with MintedConnect.sandbox(seed=7) as minted:
            assert minted.rates.current()
            assert len(minted.sandbox_server.requests) > 0
            derived = minted.with_options(language="en")
            assert derived.sandbox_server is minted.sandbox_server

    def test_sandbox_server_of_other_client_is_refused(self, minted):
        with pytest.raises(ConfigurationError, match="no sandbox"):
            _ = minted.sandbox_server

    def test_subclass_builds_instances_of_itself(self):
        class Subclass(MintedConnect):
            pass

        with Subclass.sandbox() as minted:
            assert type(minted) is Subclass
            assert type(minted.with_options(language="en")) is Subclass
            assert "Subclass" in repr(minted)


class TestDerivedClients:
    def test_derived_client_has_own_settings_on_the_same_thread(self, minted, sandbox):
        minted.with_options(language="en").rates.current()
        minted.rates.current()

        assert [sandbox.requests[-2].headers["accept-language"], sandbox.requests[-1].headers["accept-language"]] == [
            "en",
            "tr",
        ]
        assert len(loop_threads()) == 1

    def test_close_of_original_closes_derived_but_not_reverse(self, minted):
        derived = minted.with_options(deadline=5)
        with derived:
            pass
        assert derived.rates.current()
        minted.close()
        with pytest.raises(ClientClosedError):
            derived.rates.current()

    def test_derived_client_works_after_original_was_collected(self, sandbox):
        derived = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url).with_options(language="en")
        gc.collect()
        assert derived.rates.current()
        with pytest.warns(ResourceWarning, match="unclosed MintedConnect"):
            del derived
            gc.collect()
        wait_until(lambda: not loop_threads())


class TestClose:
    def test_call_after_close_is_refused(self, minted):
        minted.close()
        minted.close()
        with pytest.raises(ClientClosedError, match="this MintedConnect is closed"):
            minted.rates.current()

    @pytest.mark.parametrize(("journal", "times"), [(None, 1), (MemoryJournal(), 0)], ids=["own", "passed"])
    def test_close_of_unused_client_closes_own_journal_only(self, monkeypatch, journal, times):
        closed = []

        async def aclose(journal: MemoryJournal) -> None:
            closed.append(journal)

        monkeypatch.setattr(MemoryJournal, "aclose", aclose)
        with MintedConnect("partner", "secret", journal=journal):
            pass

        assert len(closed) == times

    def test_close_closes_the_connections(self):
        with SilentServer() as server:
            minted = MintedConnect("partner", "secret", base_url=server.url)
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(minted.rates.current)
                server.accept()
                minted.close()
                assert isinstance(call.exception(TIMEOUT), ClientClosedError)
            assert server.wait_for_close()

    def test_close_error_after_error_in_body_becomes_a_note(self, monkeypatch):
        async def aclose(_: MemoryJournal) -> None:
            raise OSError("disk")

        monkeypatch.setattr(MemoryJournal, "aclose", aclose)
        minted = MintedConnect("partner", "secret")
        with pytest.raises(ZeroDivisionError) as caught, minted:
            raise ZeroDivisionError

        assert caught.value.__notes__ == ["Closing failed too: OSError('disk')"]
        with pytest.raises(OSError, match="disk"), MintedConnect("partner", "secret"):
            pass

    def test_unclosed_client_is_collected_and_warns_once(self, sandbox, monkeypatch):
        seen = []
        # Not `pytest.warns`, because its records refer to the client.
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: seen.append(str(message)))
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
        minted.rates.current()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            del minted
            gc.collect()
            wait_until(lambda: not loop_threads())
            gc.collect()

        assert seen == ["unclosed MintedConnect: use `with`, or call close()"]


class SilentServer:
    """A server that reads requests and sends no response."""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(TIMEOUT)
        self._connection = self._socket  # so that `__exit__` has a socket to close before the first connection
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def accept(self) -> bytes:
        """Wait for a request and return it."""
        self._connection, _ = self._socket.accept()
        self._connection.settimeout(TIMEOUT)
        return self._connection.recv(65_536)

    def wait_for_close(self) -> bool:
        """Wait until the client closes the connection; return whether it sent nothing more."""
        return self._connection.recv(65_536) == b""

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._socket.close()


class TestProcess:
    """Signals and forks of real processes."""

    def test_ctrl_c_closes_the_connection_before_it_raises(self, start_script):
        with SilentServer() as server:
            process = start_script(
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
                assert server.wait_for_close()
                _, err = process.communicate(timeout=TIMEOUT)

        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")

    def test_ctrl_c_in_a_purchase_names_the_pending_intent(self, start_script, sandbox, minted, tmp_path):
        basket = create_basket(minted)
        journal = tmp_path / "journal.db"
        fault = sandbox.faults.add("hang", path=BUY, commit=True)
        process = start_script(
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
            wait_until(lambda: fault.waiting)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=TIMEOUT)
        fault.remove()
        assert process.returncode == 0

        with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as second_client:
            (intent,) = second_client.complete.pending()
            assert intent.id in out
            completion = second_client.complete.reconcile(intent)
            assert completion.reconciled
            assert second_client.complete.pending() == []
        assert len(sandbox.shop.orders) == 1

    def test_forked_child_is_refused_and_parent_still_works(self, run_script, sandbox):
        status, out, err = run_script(
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

    def test_forked_child_that_only_exits_prints_nothing(self, run_script, sandbox):
        status, out, err = run_script(
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

    def test_unclosed_feed_at_exit_warns_once(self, run_script, sandbox):
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

        assert run_script(*run, warnings="ignore") == (0, "end\n", "")
        status, _, err = run_script(*run, warnings="default")
        assert status == 0
        (warning,) = [line for line in err.splitlines() if "Warning:" in line]
        assert warning.endswith("ResourceWarning: unclosed MintedConnect: use `with`, or call close()")


class TestOutcomeUnknown:
    def test_outcome_unknown_is_reconciled(self, minted, sandbox):
        basket = create_basket(minted)
        sandbox.faults.add("drop_after_commit", path=BUY, times=1)

        with pytest.raises(OutcomeUnknown) as caught:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        assert isinstance(caught.value.intent, Intent)
        assert [intent.id for intent in minted.complete.pending()] == [caught.value.intent.id]

        completion = minted.complete.reconcile(caught.value)
        assert completion.reconciled
        assert minted.complete.pending() == []

    def test_close_during_a_purchase_names_the_intent(self, minted, sandbox):
        basket = create_basket(minted)
        fault = sandbox.faults.add("hang", path=BUY)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(minted.complete.buy, basket, expected_total=basket.paid_total)
            wait_until(lambda: fault.waiting)
            minted.close()
            error = call.exception(TIMEOUT)
        fault.remove()

        assert isinstance(error, ClientClosedError)
        assert "intent" in error.__notes__[0]


class TestFeed:
    def test_feed_yields_ticks_until_it_is_closed(self, minted):
        with minted.rates.feed(interval=0.01) as feed:
            ticks = feed.subscribe(metal="gold")
            first, second = next(ticks), next(ticks)
            assert first.rate.metal_type == second.rate.metal_type == "gold"
            assert feed.latest(metal="gold").observed_at >= first.observed_at
            assert feed.wait_for(lambda tick: tick.rate.metal_type == "silver", timeout=TIMEOUT).buy > 0
            assert (feed.failures, feed.last_error, feed.is_breaker_open) == (0, None, False)
        assert list(ticks) == []
        assert feed.latest() is not None

    @pytest.mark.parametrize("buffer", [None, 1])
    @pytest.mark.parametrize("closed_object", ["feed", "subscription"])
    def test_close_in_another_thread_ends_the_iteration(self, minted, buffer, closed_object):
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
                assert seen.wait(TIMEOUT)
                (feed if closed_object == "feed" else ticks).close()
                assert listening.result(TIMEOUT) == 1
            assert ticks.dropped == 0

    def test_subscriptions_of_eight_threads_share_one_poller(self, minted, sandbox):
        with minted.rates.feed(interval=3600) as feed, ThreadPoolExecutor(8) as pool:
            ticks = list(pool.map(lambda _: next(feed.subscribe(sku=GOLD)), range(8)))

        assert len({tick.observed_at for tick in ticks}) == 1
        assert len([request for request in sandbox.requests if request.status == 200]) == 1

    def test_close_of_client_ends_iteration_with_closed_error(self, minted):
        begun = threading.Event()

        def listen() -> None:
            for _ in minted.rates.feed(interval=3600).__enter__().subscribe(sku=GOLD):
                begun.set()

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            assert begun.wait(TIMEOUT)
            minted.close()
            assert isinstance(listening.exception(TIMEOUT), ClientClosedError)

    def test_close_of_feed_is_idempotent(self, minted):
        with minted.rates.feed(interval=3600) as feed:
            ticks = feed.subscribe()
            feed.close()
            feed.close()
        minted.close()
        feed.close()
        ticks.close()

    def test_error_in_body_of_feed_is_raised(self, minted):
        with pytest.raises(ZeroDivisionError), minted.rates.feed(interval=1):
            minted.close()
            raise ZeroDivisionError

    def test_wait_for_condition_that_uses_the_client_is_refused(self, minted):
        with (
            minted.rates.feed(interval=3600) as feed,
            pytest.raises(ConfigurationError, match="own loop thread"),
        ):
            feed.wait_for(lambda _: bool(minted.rates.current()), timeout=TIMEOUT)
