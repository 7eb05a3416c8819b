"""Lifts: one line turns an async method into a blocking one with the same signature, types and docs.

    class Rates(Facade[AsyncRates]):
        current: Final = blocking(AsyncRates.current)

`Final` is what lets `pyright --verifytypes` take the type as known.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable
from types import MethodType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload

from minted_connect.blocking.loop_thread import LoopThread
from minted_connect.completion.interruption import PurchaseWatch, current_watch
from minted_connect.errors import ClientClosedError, ConfigurationError

__all__ = [
    "END",
    "Facade",
    "Lifted",
    "blocking",
    "blocking_as",
    "blocking_items",
    "blocking_iter",
    "direct",
    "run",
    "step",
]

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Facade(Generic[A]):
    """The blocking face of an async object: the object, and the loop thread it lives on."""

    def __init__(self, inner: A, loop_thread: LoopThread) -> None:
        self._inner = inner
        self._loop_thread = loop_thread

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        return run(self._loop_thread, coro)


class Lifted(Generic[A, P, R]):
    """A method of `A`, shown as a plain method of `Facade[A]`: to editors, to `help()` and to `inspect`.

    Args:
        method: What it looks like.
        face: Makes what a blocking caller gets of what the method returns at once: a coroutine, an iterator.
        target: What is called, if not `method`; it takes whatever `method` takes.
        returns: The annotation of what a blocking caller gets, where it is not what `method` names.
    """

    def __init__(
        self,
        method: Callable[Concatenate[A, P], Any],
        face: Callable[[LoopThread, Any], R],
        target: Callable[Concatenate[A, ...], Any] | None = None,
        returns: object = None,
    ) -> None:
        self.__wrapped__: Final = method
        self.__name__: str = method.__name__
        self.__qualname__: str = method.__qualname__
        self.__module__ = method.__module__
        self.__doc__ = _in_blocking_words(method.__doc__)
        self.__annotations__: dict[str, Any] = dict(method.__annotations__)
        signature = inspect.signature(method)
        if returns is not None:
            self.__annotations__["return"] = returns
            signature = signature.replace(return_annotation=_shown(returns))
        self.__signature__: inspect.Signature = signature
        self._bound_signature: Final = signature.replace(parameters=[*signature.parameters.values()][1:])
        self._face: Final = face
        self._target: Final = target or method

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name that readers of the blocking class see."""
        self.__name__ = name
        self.__qualname__ = f"{owner.__qualname__}.{name}"
        self.__module__ = owner.__module__

    def __call__(self, instance: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it with the object in front, as with any function found on a class."""
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
        target, face = self._target, self._face

        def lifted(*args: P.args, **kwargs: P.kwargs) -> R:
            return face(loop_thread, target(inner, *args, **kwargs))

        lifted.__name__, lifted.__qualname__ = self.__name__, self.__qualname__
        lifted.__module__, lifted.__doc__ = self.__module__, self.__doc__
        lifted.__annotations__ = self.__annotations__
        vars(lifted).update(__wrapped__=MethodType(self.__wrapped__, inner), __signature__=self._bound_signature)
        return lifted


def _in_blocking_words(doc: str | None) -> str | None:
    """Say what the async side says about itself without `await`, `async with` and `async for`."""
    return doc and re.sub(r"\basync (?=with\b|for\b)|\bawait (?=\w)", "", doc)


def _shown(returns: object) -> str:
    """Write an annotation as source code has it, as all the others are."""
    return returns.__name__ if isinstance(returns, type) else re.sub(r"collections\.abc\.|'", "", str(returns))


def _generator(method: Callable[..., AsyncGenerator[Any, None]]) -> object:
    """Return the annotation of a generator of what an async one yields; names in it stay to be looked up."""
    returned: str = method.__annotations__["return"]
    return Generator[returned.removeprefix("AsyncGenerator[").removesuffix(", None]"), None, None]  # type: ignore[misc]


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Lifted[A, P, R]:
    """Lift a coroutine method."""
    return Lifted(method, run)


def blocking_iter(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Lifted[A, P, Generator[T, None, None]]:
    """Lift a method that returns an async generator: every element is one trip to the loop thread."""
    return Lifted(method, _elements, returns=_generator(method))


def blocking_items(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
    pages: Callable[Concatenate[A, ...], AsyncGenerator[Iterable[T], None]],
) -> Lifted[A, P, Generator[T, None, None]]:
    """Lift a method that walks the rows of `pages`: every page is one trip to the loop thread, its rows cost none."""
    return Lifted(method, _rows, pages, _generator(method))


def blocking_as(method: Callable[Concatenate[A, P], T], face: Callable[[T, LoopThread], R]) -> Lifted[A, P, R]:
    """Lift a plain method whose result has a blocking face; it runs on the loop, as what it makes will."""

    async def on_loop(inner: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(inner, *args, **kwargs)

    return Lifted(
        method,
        lambda loop_thread, coro: face(run(loop_thread, coro), loop_thread),
        on_loop,
        face if isinstance(face, type) else None,
    )


def direct(method: Callable[Concatenate[A, P], R]) -> Lifted[A, P, R]:
    """Lift a plain method that any thread may call."""
    return Lifted(method, lambda _loop_thread, result: result)


def run(loop_thread: LoopThread, coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop thread and wait for its result.

    If an exception such as a second Ctrl-C ends a purchase from outside, its intent is attached here, because the
    thread cannot wait for the coroutine to attach it.
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
"""What `step` returns at the end: a coroutine cannot raise StopIteration."""


async def step(walk: AsyncIterator[Any]) -> Any:
    """Return the next element, or `END`."""
    return await anext(walk, END)


def _elements(loop_thread: LoopThread, walk: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    async def close() -> None:
        await walk.aclose()

    try:
        while (element := run(loop_thread, step(walk))) is not END:
            yield element
    finally:
        # Closed, forked, or collected on the loop thread: then the loop closes it, or nobody can.
        with contextlib.suppress(ClientClosedError, ConfigurationError):
            run(loop_thread, close())


def _rows(loop_thread: LoopThread, walk: AsyncGenerator[Iterable[T], None]) -> Generator[T, None, None]:
    with contextlib.closing(_elements(loop_thread, walk)) as pages:
        for page in pages:
            yield from page
