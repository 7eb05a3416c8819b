"""The key `read_only` of a profile: commands that change something end with exit code 2, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

NO_LOGIN = dict.fromkeys(["MINTED_CONNECT_BASE_URL", "MINTED_CONNECT_USERNAME", "MINTED_CONNECT_PASSWORD"])
CHANGES = (
    ("customer", "create", CUSTOMER),
    ("customer", "remove", CUSTOMER),
    ("basket", "add", CUSTOMER, GOLD),
    ("basket", "clear", CUSTOMER),
    ("buy", CUSTOMER, "--yes"),
    ("buy", CUSTOMER, f"--items={GOLD}=1", "--reference=r", "--max-total=9000", "--currency=AED", "--yes"),
    ("buy", "--from=plan.csv", "--currency=AED", "--new-journal", "--yes"),
    ("sell", CUSTOMER, "--yes"),
    ("reconcile", "--fence"),
    ("reconcile", "--decide=rejected", "--intent=0b9c1f2e-0000-4000-8000-000000000001"),
)


@pytest.fixture
def profile(sandbox: ThreadedSandbox, tmp_path: Path) -> Path:
    """Write a read-only default profile, whose journal has one open intent."""
    file = tmp_path / "config" / "minted-connect" / "config.toml"
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    file.write_text(
        f'default = "reports"\n[profiles.reports]\nbase_url = "{sandbox.url}"\nusername = "{sandbox.username}"\n'
        f'password = "{sandbox.password}"\njournal = "orders.db"\nread_only = true\n',
        "utf-8",
    )
    return file


@pytest.mark.parametrize("command", CHANGES, ids=" ".join)
def test_change_exits_with_2_before_anything_is_sent(
    minted: Minted, sandbox: ThreadedSandbox, profile: Path, command: tuple[str, ...]
) -> None:
    journal = profile.with_name("orders.db")
    if command[0] == "reconcile":
        assert minted("rates", env=NO_LOGIN).code == 0
        journal.touch(0o600)
    before = sandbox.requests.total
    result = minted(*command, env=NO_LOGIN)
    assert result.code == 2
    assert "read_only" in result.err
    assert sandbox.requests.total == before
    assert not journal.exists() or journal.stat().st_size == 0


def test_reads_and_dry_runs_are_allowed(minted: Minted, sandbox: ThreadedSandbox, profile: Path) -> None:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        client.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
        client.baskets.add_item(CUSTOMER, sku=GOLD)
    for command in (("rates",), ("basket", "show", CUSTOMER), ("wallet", CUSTOMER), ("buy", CUSTOMER, "--dry-run")):
        result = minted(*command, env=NO_LOGIN)
        assert result.code == 0, (command, result)


def test_value_must_be_bool(minted: Minted, profile: Path) -> None:
    profile.write_text(profile.read_text("utf-8").replace("read_only = true", 'read_only = "yes"'), "utf-8")
    result = minted("rates", env=NO_LOGIN)
    assert result.code == 2
    assert "reports.read_only must be bool" in result.err
