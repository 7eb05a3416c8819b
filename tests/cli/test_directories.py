"""Users without a home directory: neither journal nor configuration at a relative path, and no purchase."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest
import typer

import minted_connect
from minted_connect.cli.profiles import config_path
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

NOWHERE = {"HOME": None, "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run as a user without a passwd entry, in a directory that is returned."""

    def fail(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", fail)
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def basket(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0


@pytest.mark.usefixtures("basket")
@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (NOWHERE, "journal: the user has no home directory: set HOME or XDG_STATE_HOME, or pass --journal"),
        ({"HOME": "", "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}, "journal: the user has no home directory"),
        (
            {"HOME": None, "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": None},
            "XDG_CONFIG_HOME: must be an absolute path",
        ),
        (
            {"HOME": None, "XDG_CONFIG_HOME": "~/config", "XDG_STATE_HOME": None},
            "XDG_CONFIG_HOME: must be an absolute path",
        ),
        ({"HOME": ".", "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}, "HOME: must be an absolute path"),
        ({"XDG_STATE_HOME": "state"}, "XDG_STATE_HOME: must be an absolute path"),
    ],
)
def test_purchase_without_a_home_directory_is_refused(
    minted: Minted, sandbox: ThreadedSandbox, homeless: Path, variables: dict[str, str | None], problem: str
) -> None:
    sent = sandbox.requests.total
    result = minted("buy", CUSTOMER, "--yes", env=variables)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"minted: {problem}")
    assert sandbox.requests.total == sent
    assert not list(homeless.iterdir())


@pytest.mark.usefixtures("basket")
def test_purchase_with_a_journal_needs_no_home_directory(minted: Minted, homeless: Path, tmp_path: Path) -> None:
    journal = tmp_path / "orders.db"
    assert minted("buy", CUSTOMER, "--yes", "--journal", journal, env=NOWHERE).code == 0
    result = minted("reconcile", "--list", "--journal", journal, env=NOWHERE)
    assert (result.code, result.out) == (0, f"0 settled, nothing is open in {journal}\n")
    assert not list(homeless.iterdir())


@pytest.mark.usefixtures("basket", "homeless")
def test_reconcile_without_a_home_directory_exits_2(minted: Minted) -> None:
    result = minted("reconcile", "--list", env=NOWHERE)
    assert (result.code, result.out) == (2, "")
    assert "the user has no home directory" in result.err


@pytest.mark.usefixtures("homeless")
def test_commands_without_purchase_need_no_home_directory(minted: Minted) -> None:
    assert minted("rates", env=NOWHERE).code == 0
    doctor = minted("doctor", env=NOWHERE)
    assert "configuration\tno home directory" in doctor.out
    result = minted("rates", "--profile", "here", env=NOWHERE)
    assert (result.code, result.out) == (2, "")
    assert "profile: the user has no home directory" in result.err


@pytest.mark.usefixtures("homeless")
def test_relative_xdg_directory_is_refused_by_every_command(minted: Minted) -> None:
    variables = {"XDG_CONFIG_HOME": "config"}
    assert minted("rates", env=variables).err == "minted: XDG_CONFIG_HOME: must be an absolute path\n"
    doctor = minted("doctor", env=variables)
    assert (doctor.code, "XDG_CONFIG_HOME: must be an absolute path" in doctor.out) == (1, True)


@pytest.mark.usefixtures("basket")
def test_empty_xdg_directory_counts_as_unset(minted: Minted, tmp_path: Path) -> None:
    variables = {"XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
    assert minted("buy", CUSTOMER, "--yes", env=variables).code == 0
    (journal,) = (tmp_path / ".local" / "state" / "minted-connect").glob("*.journal.db")
    result = minted("reconcile", "--list", env=variables)
    assert result.out == f"0 settled, nothing is open in {journal}\n"


def test_home_directory_of_another_user_is_named(
    minted: Minted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "exists", refuse)
    result = minted("rates")
    assert result.code == 2
    assert f"profile: {tmp_path}/config/minted-connect/config.toml cannot be read (PermissionError)" in result.err


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(("key", "options"), [("journal", ("--password-stdin",)), ("password_file", ())])
def test_home_directory_in_a_profile_must_exist(
    minted: Minted, tmp_path: Path, key: str, options: tuple[str, ...]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'default = "here"\n[profiles.here]\nusername = "x"\n{key} = "~/x"\n')
    file.chmod(0o600)
    variables = {**NOWHERE, "MINTED_CONNECT_CONFIG": str(file)}
    result = minted("rates", "--profile", "here", *options, stdin="x\n", env=variables)
    assert result.code == 2
    assert f"profile: {key}: the user has no home directory" in result.err


def test_reconcile_names_the_file_that_does_not_exist(minted: Minted, tmp_path: Path) -> None:
    result = minted("reconcile")
    directory = tmp_path / "state" / "minted-connect"
    assert result.code == 0
    assert result.err.startswith(f"nothing to reconcile: the journal {directory}{os.sep}")


@pytest.mark.parametrize(
    ("platform", "directory"),
    [("linux", "~/.config"), ("darwin", "~/Library/Application Support"), ("win32", "%APPDATA%")],
)
def test_guide_names_the_directory_of_each_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, directory: str
) -> None:
    monkeypatch.setenv("HOME", "/home/shop")
    monkeypatch.setenv("APPDATA", "/appdata")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("MINTED_CONNECT_CONFIG", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(typer.get_app_dir.__globals__, "WIN", platform == "win32")
    expanded = Path(directory.replace("~", "/home/shop").replace("%APPDATA%", "/appdata"))
    assert config_path() == expanded / "minted-connect" / "config.toml"
    guide = Path(minted_connect.__file__).parent / "guides" / "cli.md"
    assert f"`{directory}`" in guide.read_text("utf-8")
