"""Lifted methods: signature, docstring, and the number of calls to the loop thread."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import pydoc
import threading
import typing
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

import pytest

from minted_connect.blocking.lift import (
    Facade,
    blocking,
    blocking_as,
    blocking_items,
    blocking_iter,
    direct,
)
from minted_connect.blocking.loop_thread import LoopThread
from minted_connect.errors import ClientClosedError, OutcomeUnknown, Phase

from .conftest import TIMEOUT

T = TypeVar("T")


class CountingThread(LoopThread):
    """A loop thread that counts its calls."""

    def __init__(self) -> None:
        super().__init__("Client")
        self.calls = 0

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        self.calls += 1
        return super().run(coro)


class AsyncShop:
    def __init__(self) -> None:
        self.closed = 0
        self.begun = threading.Event()

    async def price(self, sku: str, /, *, qty: int = 1, note: str | None = None) -> tuple[str, int, str | None]:
        """Return a price.

        Source: none.
        """
        return sku, qty, note

    async def pages(self, *, first: int = 1, last: int = 3) -> AsyncGenerator[list[int], None]:
        """Walk the pages."""
        try:
            for number in range(first, last + 1):
                await asyncio.sleep(0)
                yield [10 * number, 10 * number + 1]
        finally:
            self.closed += 1

    async def iterate(self, *, last: int = 3) -> AsyncGenerator[int, None]:
        """Walk the rows."""
        async for page in self.pages(last=last):
            for row in page:
                yield row

    async def watch(self) -> AsyncGenerator[int, None]:
        self.begun.set()
        await asyncio.Event().wait()
        yield 1

    def thread(self, *, prefix: str = "") -> str:
        """Return the name of the thread: `async with it:`, `async for x in it`, then `await it.aclose()`."""
        return prefix + threading.current_thread().name

    async def buy(self, cause: Exception | None = None) -> None:
        error = OutcomeUnknown("the outcome is unknown", "intent", Phase.SENT, ("evidence",))
        error.add_note("a note")
        raise error from cause


class BlockingName(NamedTuple):
    """The blocking counterpart of a name."""

    name: str
    loop_thread: LoopThread


class Shop(Facade[AsyncShop]):
    price: Final = blocking(AsyncShop.price)
    pages: Final = blocking_iter(AsyncShop.pages)
    iterate: Final = blocking_items(AsyncShop.iterate, AsyncShop.pages)
    watch: Final = blocking_iter(AsyncShop.watch)
    thread: Final = blocking_as(AsyncShop.thread, BlockingName)
    thread_of_caller: Final = direct(AsyncShop.thread)
    buy: Final = blocking(AsyncShop.buy)


@pytest.fixture
def loop_thread():
    loop_thread = CountingThread()
    yield loop_thread
    loop_thread.close()


@pytest.fixture
def inner() -> AsyncShop:
    return AsyncShop()


@pytest.fixture
def shop(inner, loop_thread) -> Shop:
    return Shop(inner, loop_thread)


class TestIntrospection:
    def test_signature_equals_that_of_bound_async_method(self, shop, inner):
        assert inspect.signature(inner.price) == inspect.signature(shop.price)
        assert list(inspect.signature(shop.price).parameters) == ["sku", "qty", "note"]

    def test_names_are_those_of_the_blocking_class(self, shop):
        for method in (shop.price, Shop.price):
            assert (method.__module__, method.__qualname__, method.__name__) == (__name__, "Shop.price", "price")

    def test_docstring_and_annotations_are_kept(self, shop):
        assert AsyncShop.price.__doc__ == shop.price.__doc__ == Shop.price.__doc__
        assert AsyncShop.price.__annotations__ == shop.price.__annotations__

    def test_docstring_has_no_await_or_async(self, shop):
        expected = "Return the name of the thread: `with it:`, `for x in it`, then `it.aclose()`."
        assert Shop.thread.__doc__ == shop.thread.__doc__ == expected

    @pytest.mark.parametrize(
        ("name", "text", "type_hint"),
        [
            ("price", "tuple[str, int, str | None]", tuple[str, int, str | None]),
            ("pages", "Generator[list[int], None, None]", Generator[list[int], None, None]),
            ("iterate", "Generator[int, None, None]", Generator[int, None, None]),
            ("thread", "BlockingName", BlockingName),
            ("thread_of_caller", "str", str),
        ],
    )
    def test_return_annotation_is_the_blocking_type(self, shop, name, text, type_hint):
        for method in (getattr(Shop, name), getattr(shop, name)):
            assert inspect.signature(method).return_annotation == text
            assert typing.get_type_hints(method)["return"] == type_hint

    def test_signature_on_the_class_begins_with_self(self, shop):
        first, *others = inspect.signature(Shop.price).parameters.values()
        assert first.name == "self"
        assert others == [*inspect.signature(shop.price).parameters.values()]

    def test_lifted_method_is_not_a_coroutine_function(self, shop):
        assert not inspect.iscoroutinefunction(shop.price)
        assert not inspect.isasyncgenfunction(shop.pages)

    def test_wrapped_of_class_attribute_is_the_async_method(self):
        assert AsyncShop.price is Shop.price.__wrapped__
        assert AsyncShop.iterate is Shop.iterate.__wrapped__

    def test_help_has_parameters_and_docstrings(self, shop):
        text = "price(sku: 'str', /, *, qty: 'int' = 1, note: 'str | None' = None) -> 'tuple[str, int, str | None]'"
        class_doc = pydoc.render_doc(Shop, renderer=pydoc.plaintext)
        assert text.replace("(sku", "(self, sku") in class_doc
        assert "iterate(self, *, last: 'int' = 3) -> 'Generator[int, None, None]'" in class_doc
        assert "Return a price." in class_doc
        assert "Lifted object" not in class_doc
        assert text in pydoc.render_doc(shop.price, renderer=pydoc.plaintext)

    def test_wrong_arguments_raise_type_error_at_the_call(self, shop):
        with pytest.raises(TypeError, match="price"):
            shop.price()
        with pytest.raises(TypeError, match="pages"):
            shop.pages(page=1)

    def test_bound_method_works_after_facade_was_collected(self, loop_thread):
        price = Shop(AsyncShop(), loop_thread).price
        gc.collect()

        assert price("a") == ("a", 1, None)


class TestCalls:
    def test_call_passes_the_arguments(self, shop, loop_thread):
        assert shop.price("a", qty=2, note="b") == ("a", 2, "b")
        assert loop_thread.calls == 1

    def test_method_of_the_class_takes_the_facade(self, shop):
        assert Shop.price(shop, "a", qty=2) == ("a", 2, None)

    def test_blocking_as_runs_the_method_on_the_loop(self, shop, loop_thread):
        assert ("> Client loop", loop_thread) == shop.thread(prefix="> ")

    def test_direct_method_runs_on_the_thread_of_the_caller(self, shop, loop_thread):
        assert threading.current_thread().name == shop.thread_of_caller()
        assert loop_thread.calls == 0


class TestIteration:
    def test_pages_take_one_call_each_and_two_at_the_end(self, shop, inner, loop_thread):
        assert list(shop.pages()) == [[10, 11], [20, 21], [30, 31]]
        assert inner.closed == 1
        assert loop_thread.calls == 3 + 1 + 1

    def test_rows_take_no_calls_besides_those_of_pages(self, shop, inner, loop_thread):
        assert list(shop.iterate(last=2)) == [10, 11, 20, 21]
        assert inner.closed == 1
        assert loop_thread.calls == 2 + 1 + 1

    def test_page_is_fetched_when_its_first_row_is_needed(self, shop, loop_thread):
        rows = shop.iterate()
        assert loop_thread.calls == 0
        assert (next(rows), next(rows)) == (10, 11)
        assert loop_thread.calls == 1
        rows.close()

    @pytest.mark.parametrize("make_generator", [lambda shop: shop.pages(), lambda shop: shop.iterate()])
    def test_break_closes_the_async_generator(self, shop, inner, make_generator):
        for _ in make_generator(shop):
            break
        gc.collect()

        assert inner.closed == 1

    @pytest.mark.parametrize("make_generator", [lambda shop: shop.pages(), lambda shop: shop.iterate()])
    def test_close_closes_the_async_generator_once(self, shop, inner, make_generator):
        generator = make_generator(shop)
        next(generator)
        generator.close()
        generator.close()

        assert inner.closed == 1

    def test_unused_generator_takes_no_call(self, shop, loop_thread):
        shop.pages()
        gc.collect()

        assert loop_thread.calls == 0

    def test_error_ends_the_generator(self, loop_thread):
        class AsyncBroken:
            async def pages(self) -> AsyncGenerator[int, None]:
                yield 1
                raise KeyError(2)

        class Broken(Facade[AsyncBroken]):
            pages: Final = blocking_iter(AsyncBroken.pages)

        generator = Broken(AsyncBroken(), loop_thread).pages()
        assert next(generator) == 1
        with pytest.raises(KeyError):
            next(generator)
        with pytest.raises(StopIteration):
            next(generator)

    def test_close_of_loop_thread_ends_a_waiting_generator(self, shop, inner, loop_thread):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, shop.watch())
            assert inner.begun.wait(TIMEOUT)
            loop_thread.close()
            assert isinstance(waiting.exception(TIMEOUT), ClientClosedError)

    def test_generator_closed_after_loop_thread_does_not_raise(self, shop, inner, loop_thread):
        generator = shop.pages()
        next(generator)
        loop_thread.close()
        assert inner.closed == 1  # closed by the loop

        generator.close()
        assert inner.closed == 1

    def test_next_after_loop_thread_was_closed_raises(self, shop, loop_thread):
        generator = shop.pages()
        next(generator)
        loop_thread.close()

        with pytest.raises(ClientClosedError):
            next(generator)


class TestOutcomeUnknown:
    def test_error_is_that_of_the_coroutine(self, shop):
        cause = KeyError("sent")
        with pytest.raises(OutcomeUnknown) as caught:
            shop.buy(cause)
        error = caught.value

        assert type(error) is OutcomeUnknown
        assert str(error) == "the outcome is unknown"
        assert (error.intent, error.phase, error.evidence) == ("intent", Phase.SENT, ("evidence",))
        assert error.__notes__ == ["a note"]
        assert cause is error.__cause__
        assert "buy" in [entry.name for entry in caught.traceback]

    @pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
    def test_pickle_and_copy_keep_the_intent(self, shop, duplicate):
        with pytest.raises(OutcomeUnknown) as caught:
            shop.buy()
        copied = duplicate(caught.value)

        assert type(copied) is OutcomeUnknown
        assert (copied.intent, copied.phase, copied.evidence) == ("intent", Phase.SENT, ("evidence",))
        assert copied.__notes__ == ["a note"]
