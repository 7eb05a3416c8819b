"""The default journal: in the state directory, or where an earlier version has created it, and never both."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import typer

from minted_connect.cli.default_journal import default_journal_path
from minted_connect.errors import ConfigurationError
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

SETTINGS = {"base_url": "http://127.0.0.1:8787"}
NAME = "127.0.0.1-8787.journal.db"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """Return the state directory and the configuration directory of the process; only the latter exists."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "minted-connect").mkdir(parents=True)
    return tmp_path / "state" / "minted-connect", tmp_path / "config" / "minted-connect"


def test_default_journal_is_in_the_state_directory(folders: tuple[Path, Path]) -> None:
    state, _ = folders
    assert default_journal_path(SETTINGS) == str(state / NAME)
    assert state.stat().st_mode & 0o777 == 0o700


def test_journal_in_the_configuration_directory_stays_in_use(folders: tuple[Path, Path]) -> None:
    state, config = folders
    (config / NAME).touch()
    assert default_journal_path(SETTINGS) == str(config / NAME)
    assert not state.exists()
    assert default_journal_path({"base_url": "http://127.0.0.1:8788"}).startswith(str(state))


def test_journal_in_both_directories_is_refused(folders: tuple[Path, Path]) -> None:
    state, config = folders
    default_journal_path(SETTINGS)
    (state / NAME).touch()
    (config / NAME).touch()
    with pytest.raises(ConfigurationError, match="there are two journals for this server") as caught:
        default_journal_path(SETTINGS)
    assert str(state / NAME) in str(caught.value)
    assert str(config / NAME) in str(caught.value)


def test_link_from_the_old_place_counts_as_one_journal(folders: tuple[Path, Path]) -> None:
    state, config = folders
    default_journal_path(SETTINGS)
    (state / NAME).touch()
    (config / NAME).symlink_to(state / NAME)
    assert Path(default_journal_path(SETTINGS)).samefile(state / NAME)


def test_dangling_link_in_the_old_place_begins_no_second_journal(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, config = folders
    (config / NAME).symlink_to(tmp_path / "not-mounted" / "file")
    assert default_journal_path(SETTINGS) == str(config / NAME)


def test_directory_that_cannot_be_read_is_refused(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        default_journal_path(SETTINGS)


@pytest.mark.parametrize(
    ("platform", "state"), [("darwin", "/home/shop/Library/Application Support"), ("win32", "/local")]
)
def test_default_journal_of_each_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, state: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/shop")
    monkeypatch.setenv("APPDATA", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(typer.get_app_dir.__globals__, "WIN", platform == "win32")
    assert default_journal_path(SETTINGS) == str(Path(state) / "minted-connect" / NAME)


def test_purchase_with_two_journals_is_refused_until_one_is_named(
    minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path
) -> None:
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("buy", CUSTOMER, "--yes", "--reference", "order-1").code == 0
    [new] = (tmp_path / "state" / "minted-connect").glob("*.journal.db")
    old = tmp_path / "config" / "minted-connect" / new.name
    old.parent.mkdir(parents=True)
    shutil.copy(new, old)
    minted("basket", "add", CUSTOMER, GOLD)
    sent = sandbox.requests.total
    for arguments in (("buy", CUSTOMER, "--yes"), ("reconcile",), ("journal",), ("audit",)):
        result = minted(*arguments)
        assert (result.code, result.out) == (2, "")
        assert f"two journals for this server, {new} and {old}" in result.err
    assert sandbox.requests.total == sent
    assert "two journals for this server" in minted("doctor").out
    new.unlink()
    assert minted("buy", CUSTOMER, "--yes").code == 0
    assert not new.exists()
    assert f"{old} (in the configuration directory, where earlier versions kept it" in minted("doctor").out
    minted("basket", "add", CUSTOMER, GOLD)
    again = minted("buy", CUSTOMER, "--yes", "--reference", "order-1")
    assert "nothing was bought now" in again.err
    assert len(sandbox.shop.orders) == 2
