"""`minted journal --backup` and `--mark-restored`: a copy, and what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

ITEMS = ("--items", f"{GOLD}=1", "--max-total", "100000", "--currency", "AED", "--yes")


@pytest.fixture
def journal(minted: Minted, tmp_path: Path) -> Path:
    """A journal with one purchase, which has the reference `first`."""
    minted("customer", "create", CUSTOMER)
    file = tmp_path / "j.db"
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", "first", "--journal", file).code == 0
    return file


def test_backup_is_written_once(minted: Minted, journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    shown = minted("journal", "--journal", journal, "--backup", file)
    assert (shown.code, shown.out) == (0, "")
    assert shown.err.startswith("backup of 20")
    assert shown.err.replace("\n", "").endswith(f"UTC written to {file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = minted("journal", "--journal", journal, "--backup", file)
    assert again.code == 2
    assert "exists already" in again.err


@pytest.mark.requirement(47)
def test_backup_buys_no_new_reference(minted: Minted, sandbox: ThreadedSandbox, journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    assert minted("journal", "--journal", journal, "--backup", file).code == 0
    refused = minted("buy", CUSTOMER, *ITEMS, "--reference", "second", "--journal", file)
    assert refused.code == 4
    assert "minted audit --import" in refused.err
    assert len(sandbox.shop.orders) == 1
    known = minted("buy", CUSTOMER, *ITEMS, "--reference", "first", "--journal", file, "--json")
    assert (known.code, len(sandbox.shop.orders)) == (0, 1)
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", "second", "--journal", journal).code == 0
    assert minted("journal", "--journal", file, "--json").code == 0


def test_mark_restored_marks_a_copy(minted: Minted, journal: Path) -> None:
    shown = minted("journal", "--journal", journal, "--mark-restored", "2026-01-02T03:04:05")
    assert shown.code == 0
    assert "restored from a backup of 2026-01-02 03:04:05 UTC: run minted audit --import" in shown.err.replace("\n", "")
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", "second", "--journal", journal).code == 4
    assert len(json.loads(minted("journal", "--journal", journal, "--json").out)) == 1


def test_mark_in_the_future_is_refused(minted: Minted, journal: Path) -> None:
    assert minted("journal", "--journal", journal, "--mark-restored", "2999-01-01").code == 2
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", "second", "--journal", journal).code == 0


def test_actions_need_a_journal_that_exists(minted: Minted, tmp_path: Path) -> None:
    for action in (("--backup", tmp_path / "b.db"), ("--mark-restored", "2026-01-01")):
        shown = minted("journal", "--journal", tmp_path / "absent.db", *action)
        assert shown.code == 2
        assert "there is no file" in shown.err
    assert not list(tmp_path.glob("*.db"))


def test_actions_exclude_each_other_and_filters(minted: Minted, journal: Path, tmp_path: Path) -> None:
    for more in (("--mark-restored", "2026-01-01"), ("--state", "unknown"), ("--save", tmp_path / "x.json")):
        shown = minted("journal", "--journal", journal, "--backup", tmp_path / "b.db", *more)
        assert shown.code == 2
        assert "cannot be given together with --backup" in shown.err
    assert not (tmp_path / "b.db").exists()


def test_read_only_profile_marks_nothing(minted: Minted, journal: Path, tmp_path: Path) -> None:
    config = tmp_path / "config" / "minted-connect" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(0o600)
    config.write_text("[profiles.viewer]\nread_only = true\n")
    shown = minted("journal", "--profile", "viewer", "--journal", journal, "--mark-restored", "2026-01-01")
    assert shown.code == 2
    assert "read_only" in shown.err
    assert minted("journal", "--profile", "viewer", "--journal", journal, "--backup", tmp_path / "b.db").code == 0
