from __future__ import annotations

import ast
import copy
import pickle
import traceback
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

import minted_connect
from minted_connect import errors
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    BudgetExhausted,
    CircuitOpen,
    ClientClosedError,
    ConfigurationError,
    ConnectFailed,
    Effect,
    InvalidInput,
    JournalError,
    MintedConnectError,
    NotSent,
    OrderUnreadable,
    OutcomeUnknown,
    Phase,
    PoolTimeout,
    PriceChanged,
    RateLimited,
    RequestInfo,
    RequestTimeout,
    ServerError,
    TLSFailed,
    TransportError,
    ValidationFailed,
)
from minted_connect.models import Intent, IntentState, OrderKind

INTENT = Intent(
    id="0b6f0f36-94f4-4c4e-8a55-3c1f3a0a51f5",
    kind=OrderKind.BUY,
    external_customer_id="canary-customer",
    cart_token="canary-token",
    basket_id=1,
    guid="G",
    increment_id="1",
    price_token="P",
    paid_total=Decimal("1.50"),
    currency_code="AED",
    items=(("MNTBAE0001", 3),),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    state=IntentState.UNKNOWN,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, MintedConnectError) and value.__module__ == errors.__name__
]


def make_error(cls: type[MintedConnectError]) -> MintedConnectError:
    """Build an error of any class."""
    if cls is InvalidInput:
        return InvalidInput.of("qty", "must be from 1")
    if issubclass(cls, OutcomeUnknown):
        return cls("may have happened", INTENT, Phase.SENT, ("no response",))
    return cls("what happened")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_survives_pickle_and_copy(cls):
    error = make_error(cls)
    error.add_note("a note")
    for duplicated in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(duplicated) is cls
        assert str(duplicated) == str(error)
        assert repr(duplicated) == repr(error)
        assert duplicated.__notes__ == ["a note"]
        fields = [field.name for field in attrs.fields(cls)]
        assert [getattr(duplicated, name) for name in fields] == [getattr(error, name) for name in fields]


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if "attempts" in attrs.fields_dict(cls)], ids=lambda cls: cls.__name__
)
def test_error_attempts_set_later_survive_pickle(cls):
    error = make_error(cls)
    error.attempts = 7
    assert pickle.loads(pickle.dumps(error)).attempts == 7


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_repr_contains_the_text_only(cls):
    error = make_error(cls)
    assert repr(error) == f"{cls.__name__}({str(error)!r})"
    assert "canary" not in "".join(traceback.format_exception(error))


def test_api_error_does_not_show_body_or_message():
    error = APIError("GET /x: 400", 400, 400, "canary message", "canary-request", body=b"canary body")
    assert str(error) == "GET /x: 400"
    assert "canary" not in repr(error)


@pytest.mark.requirement(39)
def test_error_tree_in_docstring_is_exact():
    documented: dict[str, str | None] = {}
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.replace("|", " ").replace("+-", "  ").split()[:1]
        if not name or not hasattr(errors, name[0]):
            continue
        depth = line.index(name[0])
        while parents and parents[-1][0] >= depth:
            parents.pop()
        documented[name[0]] = parents[-1][1] if parents else None
        parents.append((depth, name[0]))
    real = {cls.__name__: cls.__mro__[1].__name__ for cls in CLASSES if cls is not MintedConnectError}
    assert documented == {"MintedConnectError": None, **real}


def test_errors_derive_from_builtin_errors():
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(RequestTimeout, TimeoutError)


REPEATABLE, ONCE = (Effect.READ, Effect.IDEMPOTENT), (Effect.NON_IDEMPOTENT, Effect.COMPLETE)


def with_effect(effect, error):
    error.request = RequestInfo("POST", "/x", effect)
    return error


RETRIABLE = {
    ConnectFailed("x"),
    TLSFailed("x", is_closed_by_server=True),
    PoolTimeout("x"),
    CircuitOpen("x"),
    BudgetExhausted("x"),
    JournalError("x"),
    *(with_effect(effect, cls("x")) for cls in (RateLimited, TransportError, ServerError) for effect in REPEATABLE),
}
NOT_RETRIABLE = {
    InvalidInput.of("qty", "rule"),
    TLSFailed("x"),
    JournalError("x", is_lost=True),
    PriceChanged("x"),
    AlreadyInFlight("x"),
    RateLimited("x"),
    TransportError("x"),
    ServerError("x"),
    *(with_effect(effect, cls("x")) for cls in (RateLimited, TransportError, ServerError) for effect in ONCE),
    APIError("x"),
    ValidationFailed("x"),
    ConfigurationError("x"),
    ClientClosedError("x"),
    OutcomeUnknown("x", INTENT),
    OrderUnreadable("x"),
}


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not OutcomeUnknown])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_error_keeps_its_request_when_copied(cls, duplicate):
    error = make_error(cls)
    error.request, error.attempts = RequestInfo("POST", "/x", Effect.NON_IDEMPOTENT), 2
    duplicated = duplicate(error)
    assert (duplicated.method, duplicated.path, duplicated.request.effect, duplicated.attempts) == (
        "POST",
        "/x",
        Effect.NON_IDEMPOTENT,
        2,
    )


@pytest.mark.parametrize("error", sorted(RETRIABLE, key=repr), ids=repr)
def test_error_is_safe_to_retry(error):
    assert error.safe_to_retry


@pytest.mark.parametrize("error", sorted(NOT_RETRIABLE, key=repr), ids=repr)
def test_error_is_not_safe_to_retry(error):
    assert not error.safe_to_retry


def test_not_sent_subclasses_are_exact():
    assert {cls.__name__ for cls in CLASSES if issubclass(cls, NotSent)} == {
        "NotSent",
        "InvalidInput",
        "ConnectFailed",
        "TLSFailed",
        "PoolTimeout",
        "LimiterTimeout",
        "CircuitOpen",
        "BudgetExhausted",
        "FleetError",
        "JournalError",
        "PriceFixExpired",
        "PriceChanged",
        "AlreadyInFlight",
        "LimitExceeded",
    }


def test_every_error_is_public():
    assert {cls.__name__ for cls in CLASSES} <= set(minted_connect.__all__)


def test_no_broad_except_swallows_cancellation():
    # A hook is called without an await, so that only the hook itself can raise CancelledError there. A signal cancels
    # the only task of a command, and is the regular end of one that watches.
    allowed = {("reconciler.py", "_notify"), ("watch.py", "run")}
    for path in Path(minted_connect.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        exempt = {id(inner) for node in functions if (path.name, node.name) in allowed for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and id(node) not in exempt:
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in {"everything", "BaseException"} or "CancelledError" in caught:
                    assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)) or {
                        "blocking",
                        "sandbox",
                    } & set(path.parts), f"{path}:{node.lineno} catches {caught} and does not raise again"
