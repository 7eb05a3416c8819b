"""The public API: exact, sorted, lazy, and cheap to import."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import subprocess
import sys

import attrs
import pytest

import minted_connect
from minted_connect import models
from minted_connect.blocking import client as blocking
from minted_connect.blocking import lift


def run_python(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def test_all_is_complete_and_every_name_loads():
    for name in minted_connect.__all__:
        assert getattr(minted_connect, name) is not None
    assert len(minted_connect.__all__) == len(set(minted_connect.__all__))
    assert dir(minted_connect) == sorted(minted_connect.__all__)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="Goldrush"):
        getattr(minted_connect, "Goldrush")  # noqa: B009 - a constant name is the subject of the test


@pytest.mark.parametrize(
    "module",
    [
        "config",
        "environment",
        "errors",
        "request_info",
        "secret",
        "urls",
        "validation",
        "models",
        "core.auth.digest",
        "core.exact_json",
        "core.converter",
        "core.response",
        "core.request",
        "sandbox",
    ],
)
def test_all_of_each_module_is_exact(module):
    home = importlib.import_module(f"minted_connect.{module}")
    defined = {
        name
        for name, value in vars(home).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(home.__name__)
    }
    assert defined - set(home.__all__) == set()
    assert [name for name in home.__all__ if not hasattr(home, name)] == []


def test_import_loads_no_dependency():
    loaded = run_python(
        "import sys, minted_connect;"
        "print([m for m in ('aiohttp', 'attrs', 'cattrs', 'tenacity', 'anyio') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_postgres_driver_is_loaded_by_its_journal_only():
    loaded = run_python(
        "import sys; from minted_connect import AsyncMintedConnect, MintedConnect, PostgresJournal;"
        "before = 'psycopg' in sys.modules; AsyncMintedConnect('u', 'p', journal='postgresql://host/db');"
        "print(before, 'psycopg' in sys.modules)"
    )
    assert loaded == "False True"


def test_client_does_not_load_the_sandbox():
    loaded = run_python(
        "import sys; from minted_connect import AsyncMintedConnect, MintedConnect;"
        "print([m for m in sys.modules if m.startswith('minted_connect.sandbox')])"
    )
    assert loaded == "[]"


def test_sandbox_does_not_load_the_client():
    loaded = run_python(
        "import sys, minted_connect.sandbox;"
        "own = [m for m in sys.modules if m.startswith('minted_connect.')];"
        "print([m for m in own if not m.startswith('minted_connect.sandbox')])"
    )
    assert loaded == "['minted_connect._version']"


def test_model_module_is_where_it_is_defined():
    assert minted_connect.Basket.__module__ == "minted_connect.models.basket"


MODELS = [value for value in vars(models).values() if inspect.isclass(value) and attrs.has(value)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_model_signature_annotations_are_types(model):
    parameters = inspect.signature(model, eval_str=True).parameters
    assert not [name for name, parameter in parameters.items() if isinstance(parameter.annotation, str)]
    assert list(parameters) == [field.name for field in attrs.fields(model) if field.init]


def test_help_of_a_model_shows_documented_fields():
    text = pydoc.render_doc(minted_connect.Basket, renderer=pydoc.plaintext)
    assert "An open basket" in text
    assert "paid_total: decimal.Decimal" in text
    for line in (
        "paid_total: Money: the final amount that the customer pays; on a sell, the amount received (documented).",
        "price_fix: The price lock (`pricefix` in JSON).",
    ):
        assert f" |      {line}\n" in text


def test_help_of_a_model_without_source_shows_its_docstring(monkeypatch):
    def fail(_):
        raise OSError

    monkeypatch.setattr(inspect, "getsource", fail)
    text = inspect.getdoc(minted_connect.Basket)
    assert text.startswith("An open basket")
    assert "Attributes:" not in text


def test_docstring_of_a_model_under_pdoc_has_no_fields(monkeypatch):
    # pdoc shows the documentation of each field beside the field.
    monkeypatch.setitem(sys.modules, "pdoc", None)
    assert "Attributes:" not in inspect.getdoc(minted_connect.Basket)


# The parameters of every public method.
SIGNATURES = {
    "customers.create": "customer_id firstname middlename lastname email phone gender identity_number birthdate "
    "tax_office account_type",
    "customers.get": "customer_id",
    "customers.update": "customer_id firstname middlename lastname email phone gender identity_number birthdate",
    "customers.remove": "customer_id",
    "products.page": "page per_page",
    "products.pages": "page per_page",
    "products.iterate": "per_page",
    "baskets.get_active": "customer_id cart_token",
    "baskets.add_item": "basket sku qty type",
    "baskets.update_item": "basket sku qty",
    "baskets.delete_item": "basket sku",
    "baskets.clear": "basket",
    "baskets.replace": "basket items type",
    "complete.buy": "basket expected_total accept_price reference",
    "complete.sell": "basket expected_total accept_price reference",
    "complete.delivery": "basket shipping expected_total accept_price reference",
    "complete.pending": "all_accounts",
    "complete.unfinished": "all_accounts",
    "complete.intents": "state customer_id reference since until all_accounts per_page",
    "complete.intents_page": "state customer_id reference since until all_accounts after per_page",
    "complete.intent": "reference intent_id all_accounts",
    "complete.forget": "before",
    "complete.adopt": "intent_or_error",
    "complete.reconcile": "intent_or_error budget fence",
    "complete.reconcile_all": "intents budget concurrency fence on_result",
    "complete.decide": "intent_or_error state order_id",
    "complete.reconciler": "interval fence budget lease on_result on_error on_status",
    "orders.get": "order_id customer_id",
    "orders.page": "customer_id status tx_type start end order_id sort_by sort_type page per_page",
    "orders.pages": "customer_id status tx_type start end order_id sort_by sort_type page per_page",
    "orders.iterate": "customer_id status tx_type start end order_id sort_by sort_type per_page",
    "orders.wait": "order until timeout",
    "orders.watch": "order patience",
    "orders.receipt": "order_id customer_id",
    "orders.invoice": "external_order_id",
    "wallet.balance": "customer_id metals deliverable",
    "rates.current": "metals",
    "rates.history": "metal currency_id interval start end",
    "rates.feed": "interval metals jitter max_backoff breaker backfill fleet",
}


@pytest.mark.parametrize("client", [minted_connect.AsyncMintedConnect, minted_connect.MintedConnect])
@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_of_every_method_is_exact(client, name):
    instance = client("u", "p")
    try:
        resource, method = name.split(".")
        assert (
            list(inspect.signature(getattr(getattr(instance, resource), method)).parameters) == SIGNATURES[name].split()
        )
    finally:
        if client is minted_connect.MintedConnect:
            instance.close()


@pytest.mark.parametrize("client", [minted_connect.AsyncMintedConnect, minted_connect.MintedConnect])
@pytest.mark.parametrize("name", SIGNATURES)
def test_help_shows_parameters_and_docs_of_every_operation(client, name):
    resource, method = name.split(".")
    instance = client("u", "p")
    cls = type(getattr(instance, resource))
    for function in (getattr(cls, method), getattr(getattr(instance, resource), method)):
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        assert len(inspect.getdoc(function)) > 20
        assert inspect.getdoc(function).splitlines()[0] in text
        assert all(parameter in text for parameter in SIGNATURES[name].split())
        owner = next(one for one in cls.__mro__ if method in vars(one))
    assert function.__qualname__ == f"{owner.__qualname__}.{method}"


def test_help_of_blocking_client_contains_no_await():
    for cls in vars(blocking).values():
        if inspect.isclass(cls) and cls.__module__ in {blocking.__name__, lift.__name__}:
            text = pydoc.render_doc(cls, renderer=pydoc.plaintext)
            assert not re.search(r"\bawait \w|\basync (with|for) |AsyncGenerator|Lifted object", text), cls.__name__


def test_every_operation_states_its_source_and_evidence():
    from minted_connect.core.request import OPERATIONS

    client = minted_connect.AsyncMintedConnect("u", "p")
    for name, operation in OPERATIONS.items():
        resource, method = name.split(".")
        text = inspect.getdoc(getattr(getattr(client, resource), method)) or ""
        assert str(operation.evidence) in text.lower(), f"{name} does not say that it is {operation.evidence}"
