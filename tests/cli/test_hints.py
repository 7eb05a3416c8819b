"""The command that is printed with exit code 75: pasted into a shell in any directory, it settles the purchase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import minted_connect
from minted_connect.cli.hints import reconcile_command
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, process_environment

COMPLETE = "/partner/walletable/complete/buy"
INTENT = "11111111-2222-3333-4444-555555555555"
ROOT = Path(minted_connect.__file__).parent.parent
Paste = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, whose name must be quoted."""
    directory = tmp_path / "it's $HOME; a *"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def lost(minted: Minted, sandbox: ThreadedSandbox) -> Callable[..., str]:
    """Return a function that loses the response of a purchase, and returns the command that was printed."""
    minted("customer", "create", CUSTOMER)

    def lose(*arguments: object, env: Mapping[str, str | None] | None = None) -> str:
        assert minted("basket", "add", CUSTOMER, GOLD).code == 0
        sandbox.faults.add("drop_after_commit", path=COMPLETE)
        result = minted("buy", CUSTOMER, "--yes", *arguments, env=env)
        assert result.code == 75
        return result.err.splitlines()[-1].partition("find out with: ")[2]

    return lose


@pytest.fixture
def paste(environment: dict[str, str], tmp_path: Path) -> Paste:
    """Return a function that runs a command in a shell, in the root directory."""
    script = tmp_path / "bin" / "minted"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m minted_connect.cli "$@"\n', "utf-8")
    script.chmod(0o755)

    def run(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {**process_environment(environment), "PATH": f"{script.parent}:{os.environ['PATH']}", **variables}
        return subprocess.run(
            ["sh", "-c", f"{command} --json"], cwd="/", env=own, capture_output=True, text=True, check=False, timeout=30
        )

    return run


def check_confirmed(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["state"] == "confirmed"


def test_hint_with_a_relative_journal_settles_from_elsewhere(
    lost: Callable[..., str], paste: Paste, work: Path, sandbox: ThreadedSandbox
) -> None:
    command = lost("--journal", "my orders.db")
    assert sandbox.password not in command
    check_confirmed(paste(command))
    assert len(sandbox.shop.orders) == 1


def test_hint_with_options_settles_in_a_shell_without_them(
    lost: Callable[..., str], paste: Paste, work: Path, sandbox: ThreadedSandbox
) -> None:
    secret = work / "password"
    secret.write_text(sandbox.password, "utf-8")
    secret.chmod(0o600)
    options = ("--base-url", sandbox.url, "--username", sandbox.username, "--password-file", "password")
    command = lost(*options, env={"MINTED_CONNECT_JOURNAL": "orders.db"})
    empty = {f"MINTED_CONNECT_{name}": "" for name in ("BASE_URL", "USERNAME", "PASSWORD", "JOURNAL")}
    check_confirmed(paste(command, **empty))


def test_hint_with_a_profile_names_the_profile(
    lost: Callable[..., str], paste: Paste, work: Path, sandbox: ThreadedSandbox, environment: dict[str, str]
) -> None:
    config = work / "config.toml"
    entries = {
        "base_url": sandbox.url,
        "username": sandbox.username,
        "password": sandbox.password,
        "journal": "orders.db",
        "journal_account": "shop",
    }
    config.write_text("[profiles.shop]\n" + "".join(f'{key} = "{value}"\n' for key, value in entries.items()), "utf-8")
    config.chmod(0o600)
    environment["MINTED_CONNECT_CONFIG"] = "config.toml"
    command = lost("--profile", "shop")
    environment.update({"MINTED_CONNECT_BASE_URL": "http://127.0.0.1:1", "MINTED_CONNECT_USERNAME": "other"})
    assert sandbox.password not in command
    assert command.startswith("MINTED_CONNECT_CONFIG=")
    check_confirmed(paste(command))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://shop:geheim@db.example/orders", "postgresql://shop@db.example/orders"),
        ("postgresql://shop@a,b:2/orders?target_session_attrs=primary", None),
        (
            "postgresql://a:1,b/orders?user=shop&password=geheim&options=-csearch_path%3Dshop",
            "postgresql://a:1,b/orders?user=shop&options=-csearch_path%3Dshop",
        ),
        ("postgresql://shop:ge@heim@db/orders", "postgresql://shop@db/orders"),
        ("postgresql:///orders?sslpassword=geheim&host=%2Frun", "postgresql:///orders?host=%2Frun"),
        ("postgresql://shop:ge/heim@db/orders", ""),
        ("postgresql://shop:ge#heim@db/orders", ""),
        ("postgresql://shop:ge?user=heim@db/orders", ""),
        ("postgresql://shop:ge?heim@db/orders", ""),
    ],
)
def test_hint_contains_a_database_url_without_password(url: str, shown: str | None) -> None:
    given = reconcile_command({"journal": url}, {"journal": url}, INTENT)
    kept = url if shown is None else shown
    assert ("--journal" in given, "heim" in given) == (kept != "", False)
    assert kept in given.replace("'", "")
    # A URL of the environment that has a password is left to the environment: without the password, it may not connect.
    from_environment = reconcile_command({"journal": url}, {}, INTENT)
    assert ("--journal" in from_environment) is (shown is None)


@pytest.mark.parametrize(
    ("common", "expected"),
    [
        ({"keyring": True}, "--username shop --keyring --intent"),
        ({"password_file": "/dev/fd/63"}, "--username shop --intent"),
        ({"password_file": "/run/my secret"}, "--password-file '/run/my secret' --intent"),
        ({"profile": "p", "base_url": "https://a.example"}, "--profile p --base-url https://a.example --intent"),
    ],
)
def test_hint_repeats_the_options_that_matter(common: dict[str, Any], expected: str) -> None:
    assert f"{expected} {INTENT}" in reconcile_command({"username": "shop"}, common, INTENT)


def test_intent_of_a_missing_default_journal_exits_2(minted: Minted) -> None:
    result = minted("reconcile", "--intent", INTENT)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"minted: intent: {INTENT} was not found: the journal ")
    assert "nothing" not in result.err
    assert "it may have been executed" in result.err
