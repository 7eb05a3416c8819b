"""`minted reconcile` of several intents: a line for each, and a progress bar on a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import anyio
import pytest

from minted_connect import CompletionPolicy, MintedConnect, Options, OutcomeUnknown
from minted_connect.commands import reconcile
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import Minted, Terminal
from tests.support.operations import GOLD

COUNT = 5


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def intents(sandbox: ThreadedSandbox, journal: Path) -> list[str]:
    """Return the ids of open intents, all but the last of which have an order."""
    ids: list[str] = []
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as minted:
        for number in range(COUNT):
            minted.customers.create(f"many-{number}")
            basket = minted.baskets.add_item(f"many-{number}", sku=GOLD)
            fault = "drop_before_read" if number == COUNT - 1 else "drop_after_commit"
            sandbox.faults.add(fault, path="*/complete/*")
            with pytest.raises(OutcomeUnknown) as unknown:
                minted.complete.buy(basket, expected_total=basket.paid_total)
            ids.append(unknown.value.intent.id)
    return ids


def test_reconcile_prints_a_line_for_each_intent(
    minted: Minted, intents: list[str], sandbox: ThreadedSandbox, journal: Path
) -> None:
    walks = len(sandbox.requests.of("orders.page"))
    result = minted("reconcile", "--journal", journal, "--seconds", "1", "--json")
    rows = {row["intent"]: row for row in map(json.loads, result.out.splitlines())}
    assert result.code == 75
    assert list(rows) == intents
    assert [rows[intent]["state"] for intent in intents] == ["confirmed"] * (COUNT - 1) + ["unknown"]
    assert rows[intents[-1]]["notes"][-1].startswith("next: reconcile again after ")
    assert len(sandbox.requests.of("orders.page")) - walks < COUNT
    again = minted("reconcile", "--journal", journal, "--seconds", "1")
    assert again.out.splitlines()[-1].startswith("0 settled, 1 open")
    assert again.err == ""


def test_reconcile_on_a_terminal_shows_progress(
    terminal: Callable[..., Terminal], intents: list[str], journal: Path
) -> None:
    screen = terminal("reconcile", "--journal", journal, "--seconds", "1")
    screen.expect(f"0/{COUNT}")
    screen.expect(f"{COUNT - 1} settled, 1 open")
    assert screen.end() == 75
    # Each line starts on a line of its own: the bar before it was erased.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.screen)
    for intent in intents:
        assert re.search(rf"(^|[\r\n]){intent}  buy of basket \d+, ", text)
    assert f"{COUNT}/{COUNT}" in text or f"{COUNT - 1}/{COUNT}" in text


def test_reconcile_keeps_the_policy_of_the_options(sandbox: ThreadedSandbox, journal: Path, intents: list[str]) -> None:
    policy = CompletionPolicy(orders_lag=0, latest_landing=0, fence_proves_not_executed=True)
    settings = {"username": sandbox.username, "password": sandbox.password, "base_url": sandbox.url}
    settings["options"] = Options(completion=policy)  # type: ignore[assignment]
    out = StringIO()

    async def run() -> int:
        return await reconcile.run(str(journal), fence=True, seconds=5, settings=settings, out=out)

    assert anyio.run(run) == 0
    assert ": not_executed" in out.getvalue()
