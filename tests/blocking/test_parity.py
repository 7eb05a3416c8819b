"""The blocking client has the same methods, signatures and docstrings as the asynchronous one."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    BlockingRateFeed,
    BlockingReconciler,
    MintedConnect,
    RateFeed,
    Reconciler,
)
from minted_connect.blocking import BlockingSubscription
from minted_connect.blocking import client as blocking
from minted_connect.blocking.lift import Lifted
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.feed import Subscription
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.customers import AsyncCustomers
from minted_connect.resources.orders import AsyncOrders
from minted_connect.resources.products import AsyncProducts
from minted_connect.resources.rates import AsyncRates
from minted_connect.resources.wallet import AsyncWallet

RESOURCES = [
    (AsyncCustomers, blocking.Customers),
    (AsyncProducts, blocking.Products),
    (AsyncBaskets, blocking.Baskets),
    (AsyncCompletions, blocking.Completions),
    (AsyncOrders, blocking.Orders),
    (AsyncWallet, blocking.Wallet),
    (AsyncRates, blocking.Rates),
]
CLASSES = [
    *RESOURCES,
    (AsyncMintedConnect, MintedConnect),
    (RateFeed, BlockingRateFeed),
    (Subscription, BlockingSubscription),
    (Reconciler, BlockingReconciler),
]

HANDWRITTEN = {
    (AsyncMintedConnect, "from_env"),
    (AsyncMintedConnect, "sandbox"),
    (AsyncMintedConnect, "with_options"),
    (AsyncMintedConnect, "sandbox_server"),
    (RateFeed, "failures"),
    (RateFeed, "last_error"),
    (RateFeed, "is_breaker_open"),
    (Subscription, "dropped"),
    (Reconciler, "is_active"),
    (Reconciler, "status"),
}
"""Members that are not operations and are written for both clients."""

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__anext__": "__next__"}

ASYNC_ONLY = {
    # An aiohttp session belongs to its own event loop; the blocking client has another.
    (AsyncMintedConnect, "session"),
}
"""Constructor parameters that only the asynchronous client has."""


def public_members(cls: type) -> dict[str, Any]:
    """Return the public members of a class, and the protocol methods with a blocking counterpart."""
    return {
        name: value
        for base in reversed(cls.__mro__[:-1])
        if base.__module__.startswith("minted_connect.")
        for name, value in vars(base).items()
        if not name.startswith("_") or name in RENAMED
    }


def translate_annotation(annotation: object) -> str:
    """Return an annotation as text, with the names of the blocking types replaced."""
    text = str(annotation)
    for old, new in (("AsyncGenerator[Self, None]", "Generator[Self, None, None]"), ("ThreadedSandbox", "Sandbox")):
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(("asynchronous", "blocking_class"), CLASSES)
def test_blocking_class_has_the_same_members(asynchronous, blocking_class):
    expected = {RENAMED.get(name, name) for name in public_members(asynchronous)}
    # Each client's constructor sets the resources; annotations show them on the class.
    assert (
        set(public_members(blocking_class)) | {name for name in RENAMED.values() if name in vars(blocking_class)}
        == expected
    )


@pytest.mark.parametrize(("asynchronous", "blocking_class"), CLASSES)
def test_blocking_method_is_lifted_from_async_method(asynchronous, blocking_class):
    for name, value in public_members(asynchronous).items():
        if (asynchronous, name) in HANDWRITTEN or name in RENAMED:
            continue
        lifted = vars(blocking_class)[name]
        assert isinstance(lifted, Lifted), name
        assert lifted.__wrapped__ is value, name
        assert lifted.__doc__ == re.sub(r"async (?=with |for )|await (?=\w)", "", value.__doc__), name
        assert (lifted.__module__, lifted.__qualname__) == (
            blocking_class.__module__,
            f"{blocking_class.__qualname__}.{name}",
        )


@pytest.mark.parametrize(("asynchronous", "blocking_class"), RESOURCES)
def test_bound_method_has_the_same_signature(asynchronous, blocking_class):
    facade = blocking_class(object.__new__(asynchronous), None)
    for name, value in vars(blocking_class).items():
        if isinstance(value, Lifted):
            bound = getattr(facade, name)
            inner = getattr(facade._inner, name)
            signature, expected = inspect.signature(bound), inspect.signature(inner)
            assert signature.parameters == expected.parameters, name
            returned = re.sub(r"AsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]", expected.return_annotation)
            for twin in ("RateFeed", "Reconciler"):
                returned = re.sub(rf"^{twin}$", f"Blocking{twin}", returned)
            assert signature.return_annotation == returned, name


@pytest.mark.parametrize(("asynchronous", "blocking_class"), RESOURCES)
def test_iterate_has_the_parameters_of_pages(asynchronous, blocking_class):
    if "iterate" not in vars(blocking_class):
        return
    iterate = dict(inspect.signature(asynchronous.iterate).parameters)
    pages = dict(inspect.signature(asynchronous.pages).parameters)

    assert {**pages, **iterate} == pages
    assert vars(blocking_class)["iterate"]._target.__wrapped__ is asynchronous.pages


@pytest.mark.parametrize("name", ["__init__", "from_env", "sandbox", "with_options"])
def test_handwritten_method_has_the_same_signature(name):
    def parameters(cls: type) -> list[tuple[str, Any, object, str]]:
        found = inspect.signature(getattr(cls, name)).parameters.values()
        return [
            (parameter.name, parameter.kind, parameter.default, translate_annotation(parameter.annotation))
            for parameter in found
            if (cls, parameter.name) not in ASYNC_ONLY
        ]

    def returns(cls: type) -> str:
        return translate_annotation(inspect.signature(getattr(cls, name)).return_annotation)

    assert parameters(MintedConnect) == parameters(AsyncMintedConnect)
    assert returns(MintedConnect) == returns(AsyncMintedConnect)


def test_exceptions_to_parity_exist():
    for cls, name in ASYNC_ONLY:
        assert name in inspect.signature(cls).parameters
    for cls, name in HANDWRITTEN:
        assert name in public_members(cls)


def test_both_clients_have_the_same_resources():
    asynchronous = AsyncMintedConnect("partner", "secret")
    blocking_class = MintedConnect("partner", "secret")
    resources = {type(inner): name for name, inner in vars(asynchronous).items() if not name.startswith("_")}

    assert resources == {
        type(facade._inner): name for name, facade in vars(blocking_class).items() if not name.startswith("_")
    }
    assert {name: type(getattr(blocking_class, name)) for name in resources.values()} == {
        name: blocking_class
        for cls, blocking_class in RESOURCES
        for resource, name in resources.items()
        if resource is cls
    }
    blocking_class.close()
