"""The verdict on every combination of evidence: the table of the guide money-safety."""

from __future__ import annotations

from itertools import product
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.completion.verdict import BasketSeen, Evidence, Fence, Likelihood, OrderSeen, Outcome, verdict

EVIDENCE = st.builds(
    Evidence,
    order=st.sampled_from(OrderSeen),
    likely_orders=st.integers(0, 3),
    is_search_complete=st.booleans(),
    basket=st.sampled_from(BasketSeen),
    active_reads=st.integers(0, 20),
    active_seconds=st.floats(0, 300),
    fence=st.sampled_from(Fence),
    fence_seconds=st.floats(0, 300),
    fence_proves_not_executed=st.booleans(),
    orders_lag=st.floats(0, 60),
    latest_landing=st.none() | st.floats(0, 300),
)
NO_ORDER = (OrderSeen.NONE, OrderSeen.STILL_BASKET)


def all_combinations() -> list[Evidence]:
    names = (
        "order",
        "likely_orders",
        "is_search_complete",
        "basket",
        "active_reads",
        "active_seconds",
        "fence",
        "fence_seconds",
    )
    columns = (OrderSeen, (0, 1, 2), (False, True), BasketSeen, (0, 2, 3), (0.0, 59.9, 60.0), Fence, (0.0, 29.9, 30.0))
    return [
        Evidence(**dict(zip(names, row, strict=True)), fence_proves_not_executed=proves)
        for row in product(*columns)
        for proves in (False, True)
    ]


def test_verdict_without_evidence_is_unknown() -> None:
    assert verdict(Evidence()).outcome is Outcome.UNKNOWN
    assert verdict(Evidence()).likelihood is Likelihood.NONE


def test_verdict_of_every_combination_of_evidence() -> None:
    combinations = all_combinations()
    assert len(combinations) == 4 * 3 * 2 * 3 * 3 * 3 * 3 * 3 * 2
    for seen in combinations:
        outcome = verdict(seen).outcome
        # An order decides regardless of other evidence, and only an order confirms or rejects.
        assert (outcome is Outcome.CONFIRMED) == (seen.order is OrderSeen.ACCEPTED)
        assert (outcome is Outcome.REJECTED) == (seen.order is OrderSeen.FAILED)
        # Not executed requires every part of the proof.
        proven = (
            seen.order in NO_ORDER
            and not seen.likely_orders
            and seen.is_search_complete
            and seen.fence is Fence.CLEARED
            and seen.fence_seconds >= 30
            and seen.fence_proves_not_executed
            and seen.basket is BasketSeen.GONE
        )
        assert (outcome is Outcome.NOT_EXECUTED) == proven


@given(EVIDENCE)
def test_verdict_with_a_possible_order_is_never_not_executed(seen: Evidence) -> None:
    found = verdict(seen)
    if found.outcome is Outcome.NOT_EXECUTED:
        assert seen.order in NO_ORDER
        assert not seen.likely_orders
        assert seen.is_search_complete
    if found.outcome is not Outcome.UNKNOWN:
        assert found.likelihood is Likelihood.NONE
    assert found.reason


@given(EVIDENCE)
def test_verdict_without_a_complete_search_is_unknown(seen: Evidence) -> None:
    incomplete = Evidence(
        likely_orders=seen.likely_orders,
        basket=seen.basket,
        active_reads=seen.active_reads,
        active_seconds=seen.active_seconds,
        fence=seen.fence,
        fence_seconds=seen.fence_seconds,
        fence_proves_not_executed=seen.fence_proves_not_executed,
        latest_landing=seen.latest_landing,
    )
    assert verdict(incomplete).outcome is Outcome.UNKNOWN


@given(EVIDENCE)
def test_verdict_without_policy_bounds_is_never_not_executed(seen: Evidence) -> None:
    if not seen.fence_proves_not_executed and seen.latest_landing is None:
        assert verdict(seen).outcome is not Outcome.NOT_EXECUTED


@pytest.mark.requirement(14)
@pytest.mark.parametrize(
    ("bound", "seconds", "reads", "proven"),
    [
        (None, 300, 9, False),
        (60, 89, 9, False),
        (60, 90, 9, True),
        (10, 59, 9, False),  # the table still requires three reads over 60 s
        (10, 60, 2, False),
        (10, 60, 3, True),
    ],
)
def test_open_basket_proves_not_executed_only_with_a_bound(
    bound: float | None, seconds: float, reads: int, proven: bool
) -> None:
    seen = Evidence(
        is_search_complete=True,
        basket=BasketSeen.ACTIVE,
        active_reads=reads,
        active_seconds=seconds,
        latest_landing=bound,
    )
    assert (verdict(seen).outcome is Outcome.NOT_EXECUTED) == proven


def test_fence_proves_not_executed_after_latest_landing() -> None:
    names = {
        "is_search_complete": True,
        "fence": Fence.CLEARED,
        "fence_proves_not_executed": True,
        "latest_landing": 60.0,
    }
    assert verdict(Evidence(**names, basket=BasketSeen.GONE, fence_seconds=89)).outcome is Outcome.UNKNOWN
    assert verdict(Evidence(**names, basket=BasketSeen.GONE, fence_seconds=90)).outcome is Outcome.NOT_EXECUTED


def test_intent_that_may_still_be_sent_is_unknown() -> None:
    fenced = {
        "fence": Fence.CLEARED,
        "fence_proves_not_executed": True,
        "fence_seconds": 1000,
        "basket": BasketSeen.GONE,
    }
    active = {"basket": BasketSeen.ACTIVE, "active_reads": 9, "active_seconds": 1000}
    for seen in (fenced, active):
        evidence = Evidence(is_search_complete=True, latest_landing=60.0, **seen)
        assert verdict(evidence).outcome is Outcome.NOT_EXECUTED
        assert verdict(attrs.evolve(evidence, may_still_be_sent=True)).outcome is Outcome.UNKNOWN


REFUSED = Evidence(is_search_complete=True, basket=BasketSeen.ACTIVE, is_refusal_settled=True)


def test_settled_refusal_with_open_basket_is_rejected() -> None:
    assert verdict(REFUSED).outcome is Outcome.REJECTED


@pytest.mark.requirement(46)
@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ({"is_refusal_settled": False}, Outcome.UNKNOWN),
        ({"is_search_complete": False}, Outcome.UNKNOWN),
        ({"likely_orders": 1}, Outcome.UNKNOWN),
        ({"basket": BasketSeen.GONE}, Outcome.UNKNOWN),
        ({"basket": BasketSeen.UNREAD}, Outcome.UNKNOWN),
        ({"order": OrderSeen.ACCEPTED}, Outcome.CONFIRMED),
    ],
)
def test_refusal_without_full_evidence_is_not_rejected(seen: dict[str, Any], outcome: Outcome) -> None:
    assert verdict(attrs.evolve(REFUSED, **seen)).outcome is outcome


def test_fence_with_a_refilled_basket_is_unknown() -> None:
    seen = Evidence(
        is_search_complete=True,
        fence=Fence.CLEARED,
        fence_seconds=300,
        fence_proves_not_executed=True,
        basket=BasketSeen.ACTIVE,
    )
    assert verdict(seen).outcome is Outcome.UNKNOWN


def test_fence_younger_than_the_orders_lag_is_unknown() -> None:
    seen = Evidence(
        is_search_complete=True, fence=Fence.CLEARED, fence_seconds=45, fence_proves_not_executed=True, orders_lag=60
    )
    assert verdict(seen).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("seen", "likelihood"),
    [
        (Evidence(is_search_complete=True, basket=BasketSeen.GONE), Likelihood.EXECUTED),
        (Evidence(is_search_complete=True, basket=BasketSeen.GONE, order=OrderSeen.STILL_BASKET), Likelihood.EXECUTED),
        (Evidence(is_search_complete=True, basket=BasketSeen.ACTIVE, active_reads=1), Likelihood.NONE),
        (
            Evidence(is_search_complete=True, basket=BasketSeen.ACTIVE, active_reads=9, active_seconds=59),
            Likelihood.NONE,
        ),
        (
            Evidence(is_search_complete=True, basket=BasketSeen.ACTIVE, active_reads=2, active_seconds=99),
            Likelihood.NONE,
        ),
        (
            Evidence(is_search_complete=True, basket=BasketSeen.ACTIVE, active_reads=3, active_seconds=60),
            Likelihood.NOT_EXECUTED,
        ),
        (
            Evidence(is_search_complete=True, basket=BasketSeen.UNREAD, active_reads=3, active_seconds=60),
            Likelihood.NONE,
        ),
        (Evidence(is_search_complete=True, fence=Fence.REFUSED), Likelihood.EXECUTED),
        (Evidence(is_search_complete=True, fence=Fence.CLEARED, fence_seconds=29), Likelihood.NOT_EXECUTED),
        (Evidence(is_search_complete=True, fence=Fence.CLEARED, fence_seconds=31), Likelihood.NOT_EXECUTED),
        (
            Evidence(is_search_complete=True, fence=Fence.CLEARED, fence_seconds=31, basket=BasketSeen.ACTIVE),
            Likelihood.NONE,
        ),
        # This client cleared the basket, so its absence proves nothing.
        (
            Evidence(is_search_complete=True, basket=BasketSeen.GONE, fence=Fence.CLEARED, fence_seconds=31),
            Likelihood.NOT_EXECUTED,
        ),
        (Evidence(is_search_complete=True, likely_orders=1, basket=BasketSeen.GONE), Likelihood.NONE),
    ],
)
def test_unknown_verdict_has_a_likelihood(seen: Evidence, likelihood: Likelihood) -> None:
    assert verdict(seen).outcome is Outcome.UNKNOWN
    assert verdict(seen).likelihood is likelihood
