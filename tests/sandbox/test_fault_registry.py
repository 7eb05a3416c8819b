"""The registry: a fault is one function, whose signature defines its arguments."""

import asyncio
import inspect
import re
from decimal import Decimal
from typing import get_args

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.sandbox.active_faults import ARGUMENTS, KINDS, FaultKind, Faults
from minted_connect.sandbox.fault_arguments import Choice, Number, arguments_of
from minted_connect.sandbox.fault_registry import REGISTRY, fault, faults_table
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

COMMON = {"method": None, "path": None, "times": 1, "after": 0, "before_auth": False}
REQUIRED_ARGUMENTS = {"drop_field": {"field": "paid_total"}}
COMMITTING = [kind for kind in KINDS if "commit" in ARGUMENTS[kind]]


def test_literal_and_registry_list_same_kinds():
    assert set(get_args(FaultKind)) == set(REGISTRY)
    assert tuple(sorted(REGISTRY)) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_equal_keywords_of_signature(kind):
    found = REGISTRY[kind]
    keywords = [one for one in inspect.signature(found.function).parameters.values() if one.kind is one.KEYWORD_ONLY]
    assert {one.name: one.default for one in keywords} == ARGUMENTS[kind]
    assert all(argument.rules for argument in found.arguments.values())
    assert found.summary == found.function.__doc__.partition("\n")[0].rstrip(".")
    added = Faults().add(kind, **REQUIRED_ARGUMENTS.get(kind, {}))
    assert dict(added.args) == {**ARGUMENTS[kind], **REQUIRED_ARGUMENTS.get(kind, {})}


def test_duplicate_kind_raises():
    with pytest.raises(ValueError, match="'hang'"):

        @fault
        async def hang(context): ...

    assert REGISTRY["hang"].function.__module__ == "minted_connect.sandbox.fault_effects"


def test_number_without_bounds_raises():
    def effect(reply, *, size: int = 1): ...

    with pytest.raises(KeyError):
        arguments_of(effect)


def test_table_lists_every_fault_with_arguments():
    head, _, *rows = faults_table().splitlines()
    assert head.startswith("| kind |")
    listed = {}
    for row in rows:
        kind, summary, arguments = (cell.strip() for cell in row.strip("|").split("|"))
        assert summary
        listed[kind.strip("`")] = set(re.findall(r"`(\w+)=", arguments))
    assert listed == {kind: set(ARGUMENTS[kind]) for kind in KINDS}
    assert '`commit="before"` or `"after"`, `"never"`' in faults_table()


# --- wrong arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_argument_raises(kind):
    faults = Faults()
    with pytest.raises(TypeError, match=f"{kind} takes no colour, shape"):
        faults.add(kind, shape=1, colour="red", **REQUIRED_ARGUMENTS.get(kind, {}))
    assert len(faults) == 0


@pytest.mark.parametrize("kind", ["", "explode", None, 5, [], {}, b"status"])
def test_unknown_kind_raises(kind):
    with pytest.raises(ValueError, match="kind: no such fault; there are deep, delay"):
        Faults().add(kind)


class OtherType:
    """A type that no argument of a fault accepts."""


WRONG = {
    "method": ["", "GET ", "A B", "\n", "é", 5, True, b"GET", ["GET"]],
    "path": [{"a": 1}, 5, b"*", True, "*" * 1_001, "\ud800"],
    "times": ["x", 0, -1, 1.0, True, False, Decimal(1), 10**10, float("nan")],
    "after": ["x", -1, 1.5, True, None, 10**400],
    "before_auth": [0, 1, "yes", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_invalid_common_argument_raises_and_is_named(name, value):
    faults = Faults()
    with pytest.raises((TypeError, ValueError), match=f"status needs {name}= to be "):
        faults.add("status", **{name: value})
    assert len(faults) == 0


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in ARGUMENTS[kind]])
def test_argument_of_wrong_type_raises_and_is_named(kind, name):
    faults = Faults()
    with pytest.raises((TypeError, ValueError), match=f"{kind} needs {name}= to be "):
        faults.add(kind, **{**REQUIRED_ARGUMENTS.get(kind, {}), name: OtherType()})
    assert len(faults) == 0


NUMBERS = [
    (kind, name, rule)
    for kind in KINDS
    for name, argument in REGISTRY[kind].arguments.items()
    for rule in argument.rules
    if isinstance(rule, Number)
]


@pytest.mark.parametrize(("kind", "name", "rule"), NUMBERS)
def test_number_out_of_bounds_raises(kind, name, rule):
    wrong = [rule.low - 1, rule.high + 1, float("nan"), float("inf"), True, Decimal("NaN"), Decimal("1e9999"), 10**400]
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=f"{kind} needs {name}= to be "):
            Faults().add(kind, **{name: value})
    for value in (rule.low, rule.high):
        assert Faults().add(kind, **{name: value}).args[name] == value


def test_reported_invalid_arguments_raise():
    for kind, args in [("gzip_bomb", {"size": 10**13}), ("delay", {"seconds": -1}), ("delay", {"seconds": "x"})]:
        with pytest.raises((TypeError, ValueError), match=next(iter(args))):
            Faults().add(kind, **args)


def test_choice_accepts_only_listed_values():
    for kind in KINDS:
        for name, argument in REGISTRY[kind].arguments.items():
            for rule in argument.rules:
                if isinstance(rule, Choice):
                    assert [Faults().add(kind, **{name: one}).args[name] for one in rule.values] == [*rule.values]
                    with pytest.raises(ValueError, match=f"{name}= to be '"):
                        Faults().add(kind, **{name: "neither"})


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("extra_field", {"value": 1.5}),
        ("extra_field", {"value": {"a": [1.5]}}),
        ("extra_field", {"value": {1: "a"}}),
        ("extra_field", {"value": Decimal("NaN")}),
        ("extra_field", {"value": Decimal("1e999999")}),
        ("extra_field", {"value": 10**5_000}),
        ("extra_field", {"field": "a." * 400 + "a"}),
        ("extra_field", {"field": "\ud800"}),
        ("status", {"body": {"a": {1, 2}}}),
        ("status", {"body": "\ud800"}),
        ("status", {"headers": {"X-A": "1\r\nX-B: 2"}}),
        ("status", {"headers": {"X A": "1"}}),
        ("status", {"headers": {"X-A": 1}}),
        ("status", {"headers": [("X-A", "1")]}),
        ("status", {"retry_after": "1\r\n"}),
        ("redirect", {"location": "/\x00"}),
        ("wrong_customer", {"external_id": None}),
        ("order_status", {"name": ""}),
    ],
)
def test_value_that_cannot_be_sent_raises(kind, args):
    with pytest.raises((TypeError, ValueError), match=f"{kind} needs {next(iter(args))}= to be "):
        Faults().add(kind, **args)


def test_recursive_value_raises():
    value = []
    value.append(value)
    with pytest.raises(TypeError, match="extra_field needs value="):
        Faults().add("extra_field", value=value)


@given(st.sampled_from([kind for kind in KINDS if ARGUMENTS[kind]]), st.data())
def test_any_value_is_accepted_or_named(kind, data):
    name = data.draw(st.sampled_from([*ARGUMENTS[kind], *COMMON]))
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.text(), st.binary(),
        st.lists(st.integers()), st.dictionaries(st.text(), st.floats()),
    )  # fmt: skip
    value = data.draw(values)
    faults = Faults()
    try:
        added = faults.add(kind, **{**REQUIRED_ARGUMENTS.get(kind, {}), name: value})
    except (TypeError, ValueError) as error:
        assert f"{kind} needs {name}= to be " in str(error)
        assert len(faults) == 0
    else:
        kept = added.args.get(name, getattr(added, name, None))
        assert kept in (float(value) if isinstance(kept, float) else value, str(value).upper())


# --- commit ------------------------------------------------------------------------------------------------------


def test_commit_is_boolean_or_named_moment():
    for kind in COMMITTING:
        (rule,) = REGISTRY[kind].arguments["commit"].rules
        assert rule.text in ("True or False", "'before' or 'after' or 'never'"), kind


@pytest.mark.parametrize("kind", COMMITTING)
async def test_commit_decides_whether_request_is_executed(api, sandbox, clock, kind):
    is_flag = isinstance(ARGUMENTS[kind]["commit"], bool)
    for commit, orders in [(False if is_flag else "never", 0), (True if is_flag else "before", 1)]:
        customer = f"cust-{orders}"
        await api.create_customer(customer)
        fault = sandbox.faults.add(kind, path="*/complete/*", commit=commit)
        basket = (await api.add_item(customer=customer)).data
        call = asyncio.ensure_future(api.complete(basket))
        await wait_until(lambda fault=fault, call=call: fault.waiting or call.done())
        clock.advance(100)
        await asyncio.sleep(0)
        assert len(sandbox.shop.orders) == orders, (kind, commit)
        if kind == "hang":  # the only fault that executes the request in both cases
            assert sandbox.latest_landing is None
            fault.remove()
            assert (await call).status == 200
            assert [order.external_customer_id for order in sandbox.shop.orders].count(customer) == 1
            return
        await asyncio.gather(call, return_exceptions=True)
        await api.session.close()
        api.session = aiohttp.ClientSession()
    assert fault.hits == 1
    await api.session.close()


async def test_hang_with_commit_executes_request_first(api, sandbox):
    await api.create_customer()
    fault = sandbox.faults.add("hang", path="*/complete/*", commit=True)
    call = asyncio.ensure_future(api.complete((await api.add_item()).data))
    await wait_until(lambda: fault.waiting)
    assert (len(sandbox.shop.orders), sandbox.latest_landing) == (1, 0.0)
    fault.remove()
    assert (await call).status == 200


async def test_interim_without_commit_sends_500(api, sandbox):
    await api.create_customer()
    sandbox.faults.add("interim", path="*/complete/*", commit=False)
    response = await api.complete((await api.add_item()).data)
    assert (response.status, response.json["success"], sandbox.shop.orders) == (500, False, [])
