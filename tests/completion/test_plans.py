"""Plans whose processes are killed and started again; `python -m tests.completion.plans` runs large ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from minted_connect.models import Intent, IntentState
from tests.completion.plans.__main__ import main
from tests.completion.plans.plan import Purchase, Settings
from tests.completion.plans.result import Result
from tests.completion.plans.run import run

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(47)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("journal", ["sqlite", "postgres"])
@pytest.mark.parametrize(("policy", "reads_basket"), [("known", "arrival"), ("known", "execution"), ("default", "arrival")])
async def test_killed_processes_buy_each_reference_at_most_once(
    journal: Any, policy: Any, reads_basket: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        journal=journal, starts=3, customers=12, policy=policy, reads_basket=reads_basket, seed=2026
    )
    result = await run(settings)
    with capsys.disabled():
        sys.stdout.write(f"\n{result}\n")
    assert result.violations == []
    assert result.orders <= 12
    assert result.confirmed + result.open == 12
    if policy == "known":
        assert (result.orders, result.confirmed) == (12, 12)
    # The run is only meaningful if processes were killed, and requests met faults.
    assert result.killed >= 4
    assert result.faults.total() > 5
