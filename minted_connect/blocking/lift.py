"""Turns async methods into blocking ones with the same signature and types, one line for each method.

    class Rates(Facade[AsyncRates]):
        current: Final = blocking(AsyncRates.current)

`Final` makes the inferred type count as known for `pyright --verifytypes`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable
from types import MethodType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload

from minted_connect.blocking.loop_thread import LoopThread
from minted_connect.completion.interruption import PurchaseWatch, copy_intent, current_watch
from minted_connect.errors import ClientClosedError, ConfigurationError

__all__ = [
    "END",
    "Facade",
    "Lifted",
    "blocking",
    "blocking_as",
    "blocking_items",
    "blocking_iter",
    "close_on_exit",
    "direct",
    "run",
    "step",
]

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Facade(Generic[A_co]):
    """Base class of blocking twins: holds the async object, and the loop thread that runs its coroutines."""

    def __init__(self, inner: A_co, loop_thread: LoopThread) -> None:
        self._inner = inner
        self._loop_thread = loop_thread

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        return run(self._loop_thread, coro)


class Lifted(Generic[A, P, R]):
    """Descriptor that shows a method of `A` as a plain method of `Facade[A]` to editors, `help()` and `inspect`.

    Args:
        method: Provides name, signature and docstring.
        convert: Converts the result of the method (a coroutine, an async generator) to what the blocking method
            returns.
        target: Called instead of `method`, with the same arguments.
        returns: Return annotation of the blocking method, if it differs from that of `method`.
    """

    def __init__(
        self,
        method: Callable[Concatenate[A, P], Any],
        convert: Callable[[LoopThread, Any], R],
        target: Callable[Concatenate[A, ...], Any] | None = None,
        returns: object = None,
    ) -> None:
        self.__wrapped__: Final = method
        self.__name__: str = method.__name__
        self.__qualname__: str = method.__qualname__
        self.__module__ = method.__module__
        self.__doc__ = _without_async(method.__doc__)
        self.__annotations__: dict[str, Any] = dict(method.__annotations__)
        signature = inspect.signature(method)
        if returns is not None:
            self.__annotations__["return"] = returns
            signature = signature.replace(return_annotation=_annotation_text(returns))
        self.__signature__: inspect.Signature = signature
        self._bound_signature: Final = signature.replace(parameters=[*signature.parameters.values()][1:])
        self._convert: Final = convert
        self._target: Final = target or method

    def __set_name__(self, owner: type, name: str) -> None:
        """Set the names by which the blocking class shows the method."""
        self.__name__ = name
        self.__qualname__ = f"{owner.__qualname__}.{name}"
        self.__module__ = owner.__module__

    def __call__(self, instance: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method as a function of the class, with the instance as first argument."""
        return self.__get__(instance, type(instance))(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Facade[A], owner: type) -> Callable[P, R]: ...

    def __get__(self, instance: Facade[A] | None, owner: type) -> Self | Callable[P, R]:
        """Bind the method to the async object behind `instance`."""
        if instance is None:
            return self
        inner, loop_thread = instance._inner, instance._loop_thread  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        target, convert = self._target, self._convert

        def lifted(*args: P.args, **kwargs: P.kwargs) -> R:
            return convert(loop_thread, target(inner, *args, **kwargs))

        lifted.__name__, lifted.__qualname__ = self.__name__, self.__qualname__
        lifted.__module__, lifted.__doc__ = self.__module__, self.__doc__
        lifted.__annotations__ = self.__annotations__
        vars(lifted).update(__wrapped__=MethodType(self.__wrapped__, inner), __signature__=self._bound_signature)
        return lifted


def _without_async(doc: str | None) -> str | None:
    """Return a docstring without the keywords `await` and `async`."""
    return doc and re.sub(r"\basync (?=with\b|for\b)|\bawait (?=\w)", "", doc)


def _annotation_text(returns: object) -> str:
    """Return an annotation as source text, like the other annotations of the signature."""
    return returns.__name__ if isinstance(returns, type) else re.sub(r"collections\.abc\.|'", "", str(returns))


def _generator(method: Callable[..., AsyncGenerator[Any, None]]) -> object:
    """Return the `Generator` annotation for a method that is annotated with an `AsyncGenerator`.

    The yield type stays a string, which `inspect` resolves on demand.
    """
    returned: str = method.__annotations__["return"]
    return Generator[returned.removeprefix("AsyncGenerator[").removesuffix(", None]"), None, None]  # type: ignore[misc]


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Lifted[A, P, R]:
    """Lift a coroutine method."""
    return Lifted(method, run)


def blocking_iter(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Lifted[A, P, Generator[T, None, None]]:
    """Lift a method that returns an async generator. Each element takes one call to the loop thread."""
    return Lifted(method, _iterate, returns=_generator(method))


def blocking_items(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
    pages: Callable[Concatenate[A, ...], AsyncGenerator[Iterable[T], None]],
) -> Lifted[A, P, Generator[T, None, None]]:
    """Lift a method that iterates over the rows of `pages`. Each page takes one call to the loop thread, a row none."""
    return Lifted(method, _iterate_rows, pages, _generator(method))


def blocking_as(method: Callable[Concatenate[A, P], T], wrap: Callable[[T, LoopThread], R]) -> Lifted[A, P, R]:
    """Lift a plain method and wrap its result in a blocking twin. The method runs on the loop, like its result."""

    async def on_loop(inner: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(inner, *args, **kwargs)

    return Lifted(
        method,
        lambda loop_thread, coro: wrap(run(loop_thread, coro), loop_thread),
        on_loop,
        wrap if isinstance(wrap, type) else None,
    )


def direct(method: Callable[Concatenate[A, P], R]) -> Lifted[A, P, R]:
    """Lift a plain, thread-safe method, which is called in the caller's thread."""
    return Lifted(method, lambda _loop_thread, result: result)


def run(loop_thread: LoopThread, coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop thread and wait for its result.

    A second Ctrl-C ends the wait before the coroutine can attach the intent of a purchase, so it is attached here.
    """
    watch = PurchaseWatch()
    token = current_watch.set(watch)
    try:
        return loop_thread.run(coro)
    except BaseException as error:
        watch.attach_to(error)
        raise
    finally:
        current_watch.reset(token)


END: Final = object()
"""Returned by `step` at the end of an iterator, because a coroutine cannot raise `StopIteration`."""


async def step(iterator: AsyncIterator[Any]) -> Any:
    """Return the next element, or `END`."""
    return await anext(iterator, END)


def close_on_exit(close: Callable[[], object], error: BaseException | None) -> None:
    """Close at the end of a `with` body. If the body raised `error`, a failure to close becomes a note on it."""
    try:
        close()
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"Closing failed too: {failure!r}")
    except BaseException as interruption:
        # A second Ctrl-C replaces the first, which has the intent of the purchase that it interrupted.
        if error is not None:
            copy_intent(error, interruption)
        raise


def _iterate(loop_thread: LoopThread, iterator: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    async def close() -> None:
        await iterator.aclose()

    try:
        while (element := run(loop_thread, step(iterator))) is not END:
            yield element
    finally:
        # The call is refused if the client is closed or this process is a fork. It is refused, too, if the garbage
        # collector ends this generator on the loop thread; then the loop closes the async generator.
        with contextlib.suppress(ClientClosedError, ConfigurationError):
            run(loop_thread, close())


def _iterate_rows(loop_thread: LoopThread, pages: AsyncGenerator[Iterable[T], None]) -> Generator[T, None, None]:
    with contextlib.closing(_iterate(loop_thread, pages)) as found:
        for page in found:
            yield from page
