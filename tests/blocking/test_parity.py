"""The blocking client has the same methods, signatures and docstrings as the asynchronous one."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect, BlockingRateFeed, MintedConnect, RateFeed
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
TWINS = [
    *RESOURCES,
    (AsyncMintedConnect, MintedConnect),
    (RateFeed, BlockingRateFeed),
    (Subscription, BlockingSubscription),
]

INTERNAL = {(AsyncCompletions, "with_api"), (AsyncCompletions, "note"), (AsyncCompletions, "aclose")}
"""Methods that only the asynchronous client calls."""

BY_HAND = {
    (AsyncMintedConnect, "from_env"),
    (AsyncMintedConnect, "sandbox"),
    (AsyncMintedConnect, "with_options"),
    (AsyncMintedConnect, "sandbox_server"),
    (RateFeed, "failures"),
    (RateFeed, "last_error"),
    (RateFeed, "is_breaker_open"),
    (Subscription, "dropped"),
}
"""Members that are not operations and are written for both clients."""

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__anext__": "__next__"}

NO_TWIN = {
    # An aiohttp session belongs to its own event loop; the blocking client has another.
    (AsyncMintedConnect, "session"),
}
"""Constructor parameters that only the asynchronous client has."""


def public(cls: type) -> dict[str, Any]:
    """Return the public members of a class, and the protocol methods that have a twin."""
    return {
        name: value
        for base in reversed(cls.__mro__[:-1])
        if base.__module__.startswith("minted_connect.")
        for name, value in vars(base).items()
        if not name.startswith("_") or name in RENAMED
    }


def same_type(annotation: object) -> str:
    """Return an annotation as text, with the names of the blocking types replaced."""
    text = str(annotation)
    for one, other in (("AsyncGenerator[Self, None]", "Generator[Self, None, None]"), ("ThreadedSandbox", "Sandbox")):
        text = text.replace(one, other)
    return text


@pytest.mark.parametrize(("asynchronous", "twin"), TWINS)
def test_nothing_is_missing_and_nothing_is_extra(asynchronous, twin):
    expected = {RENAMED.get(name, name) for name in public(asynchronous) if (asynchronous, name) not in INTERNAL}
    # Each client's constructor sets the resources; annotations show them on the class.
    assert set(public(twin)) | {name for name in RENAMED.values() if name in vars(twin)} == expected


@pytest.mark.parametrize(("asynchronous", "twin"), TWINS)
def test_every_operation_is_the_lifted_one(asynchronous, twin):
    for name, value in public(asynchronous).items():
        if (asynchronous, name) in INTERNAL | BY_HAND or name in RENAMED:
            continue
        lifted = vars(twin)[name]
        assert isinstance(lifted, Lifted), name
        assert lifted.__wrapped__ is value, name
        assert lifted.__doc__ == re.sub(r"async (?=with |for )|await (?=\w)", "", value.__doc__), name
        assert (lifted.__module__, lifted.__qualname__) == (twin.__module__, f"{twin.__qualname__}.{name}")


@pytest.mark.parametrize(("asynchronous", "twin"), RESOURCES)
def test_bound_operations_have_the_same_parameters_and_results(asynchronous, twin):
    facade = twin(object.__new__(asynchronous), None)
    for name, value in vars(twin).items():
        if isinstance(value, Lifted):
            bound = getattr(facade, name)
            inner = getattr(facade._inner, name)
            signature, expected = inspect.signature(bound), inspect.signature(inner)
            assert signature.parameters == expected.parameters, name
            returned = re.sub(r"AsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]", expected.return_annotation)
            assert signature.return_annotation == returned.replace("RateFeed", "BlockingRateFeed"), name


@pytest.mark.parametrize(("asynchronous", "twin"), RESOURCES)
def test_flattened_walks_take_what_their_pages_take(asynchronous, twin):
    if "iterate" not in vars(twin):
        return
    iterate = dict(inspect.signature(asynchronous.iterate).parameters)
    pages = dict(inspect.signature(asynchronous.pages).parameters)

    assert {**pages, **iterate} == pages
    assert vars(twin)["iterate"]._target is asynchronous.pages


@pytest.mark.parametrize("name", ["__init__", "from_env", "sandbox", "with_options"])
def test_what_is_written_by_hand_has_the_same_parameters(name):
    def parameters(cls: type) -> list[tuple[str, Any, object, str]]:
        found = inspect.signature(getattr(cls, name)).parameters.values()
        return [
            (one.name, one.kind, one.default, same_type(one.annotation))
            for one in found
            if (cls, one.name) not in NO_TWIN
        ]

    def returns(cls: type) -> str:
        return same_type(inspect.signature(getattr(cls, name)).return_annotation)

    assert parameters(MintedConnect) == parameters(AsyncMintedConnect)
    assert returns(MintedConnect) == returns(AsyncMintedConnect)


def test_exceptions_are_still_needed():
    for cls, name in NO_TWIN:
        assert name in inspect.signature(cls).parameters
    for cls, name in INTERNAL | BY_HAND:
        assert name in public(cls)


def test_both_clients_carry_the_same_resources():
    asynchronous = AsyncMintedConnect("partner", "secret")
    twin = MintedConnect("partner", "secret")
    resources = {type(inner): name for name, inner in vars(asynchronous).items() if not name.startswith("_")}

    assert resources == {type(facade._inner): name for name, facade in vars(twin).items() if not name.startswith("_")}
    assert {name: type(getattr(twin, name)) for name in resources.values()} == {
        name: twin for cls, twin in RESOURCES for one, name in resources.items() if one is cls
    }
    twin.close()
