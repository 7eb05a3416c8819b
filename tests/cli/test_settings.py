"""Sources of server and credentials: options, the named profile, the environment, the default profile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, Terminal

NOTHING = dict.fromkeys(["MINTED_CONNECT_BASE_URL", "MINTED_CONNECT_USERNAME", "MINTED_CONNECT_PASSWORD"])
NO_PASSWORD = {"MINTED_CONNECT_PASSWORD": None}


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, mode: int = 0o600) -> Path:
        file = tmp_path / "config" / "minted-connect" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        file.chmod(mode)
        return file

    return write


def private(file: Path, text: str) -> Path:
    file.touch(0o600)
    file.write_text(text, "utf-8")
    return file


@pytest.fixture
def profile(sandbox: ThreadedSandbox) -> str:
    return (
        f'default = "here"\n[profiles.here]\nbase_url = "{sandbox.url}"\nusername = "{sandbox.username}"\n'
        f'password = "{sandbox.password}"\nlanguage = "en"\n'
    )


def test_the_default_profile_is_used(minted: Minted, config: Callable[..., Path], profile: str) -> None:
    config(profile)
    assert minted("rates", env=NOTHING).code == 0
    minted("customer", "create", CUSTOMER, env=NOTHING)
    assert "invalid" in minted("basket", "add", CUSTOMER, "NO-SUCH-SKU", env=NOTHING).err.lower()


def test_a_profile_is_named_by_option_or_environment(minted: Minted, config: Callable[..., Path], profile: str) -> None:
    config(profile.replace('default = "here"\n', ""))
    assert minted("rates", env=NOTHING).code == 2
    assert minted("rates", "--profile", "here", env=NOTHING).code == 0
    assert minted("rates", env={**NOTHING, "MINTED_CONNECT_PROFILE": "here"}).code == 0
    there = config(profile).rename(config(profile).with_name("elsewhere.toml"))
    assert minted("rates", env={**NOTHING, "MINTED_CONNECT_CONFIG": str(there)}).code == 0


def test_options_go_before_the_environment_and_that_before_the_default_profile(
    minted: Minted, config: Callable[..., Path], profile: str
) -> None:
    config(profile.replace("http://", "https://"))
    assert minted("rates").code == 0
    assert minted("rates", "--base-url", "http://127.0.0.1:1").code == 4


def test_a_profile_that_was_named_goes_before_the_environment(
    minted: Minted, config: Callable[..., Path], profile: str, tmp_path: Path
) -> None:
    config(profile)
    elsewhere = {
        "MINTED_CONNECT_BASE_URL": "http://127.0.0.1:1",
        "MINTED_CONNECT_USERNAME": "another-user",
        "MINTED_CONNECT_PASSWORD": "another-password",
        "MINTED_CONNECT_JOURNAL": "/no/such/directory/orders.db",
    }
    assert minted("rates", env=elsewhere).code == 2
    assert minted("rates", "--profile", "here", env=elsewhere).code == 0
    without = [line for line in profile.splitlines() if "password" not in line]
    config("\n".join(without))
    # User name and password are never combined from two sources.
    assert "password: give" in minted("rates", "--profile", "here", env=elsewhere).err


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("", 0o644, "profile: other users can access "),
        ("", 0o640, "profile: other users can access "),
        ("default = ", 0o600, "is not TOML"),
        ('default = "other"', 0o600, "has no [profiles.other]"),
        ('default = "here"\nprofiles = 1', 0o600, "has no [profiles.here]"),
        ('default = "here"\n[profiles.here]\nuser = "x"', 0o600, "here.user is not a known key"),
        ('default = "here"\n[profiles.here]\nkeyring = "yes"', 0o600, "here.keyring must be bool"),
        ('default = "here"\n[profiles.here.paths]\n"rates.curent" = "/x"', 0o600, "no operation is called"),
        ("\xff", 0o600, ""),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_in_one_line(
    minted: Minted, config: Callable[..., Path], sandbox: ThreadedSandbox, text: str, mode: int, says: str
) -> None:
    config(text, mode)
    result = minted("rates")
    if says:
        (line,) = result.err.splitlines()
        assert says in line
    assert (result.code, result.out) == (2, "")
    assert not sandbox.requests


def test_a_named_file_or_profile_has_to_be_there(minted: Minted, tmp_path: Path) -> None:
    assert minted("rates", "--profile", "here").code == 2
    result = minted("rates", env={"MINTED_CONNECT_CONFIG": str(tmp_path / "none.toml")})
    assert result.code == 2
    assert f"the configuration file {tmp_path / 'none.toml'} does not exist" in result.err
    result = minted("rates", env={"MINTED_CONNECT_CONFIG": str(tmp_path)})
    assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_paths_of_a_profile_correct_the_operations(minted: Minted, config: Callable[..., Path], profile: str) -> None:
    elsewhere = "/partner/walletable/currency-rates"
    with ThreadedSandbox(paths={"rates.current": elsewhere}) as moved:
        url = {"MINTED_CONNECT_BASE_URL": moved.url, "MINTED_CONNECT_PASSWORD": moved.password}
        assert minted("rates", env=url).code == 3
        config(f'{profile}[profiles.here.paths]\n"rates.current" = "{elsewhere}"\n')
        assert minted("rates", env=url).code == 0


def test_the_journal_of_a_profile_stands_beside_its_file(
    minted: Minted, config: Callable[..., Path], profile: str
) -> None:
    file = config(f'{profile}journal = "orders.db"\n')
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("buy", CUSTOMER, "--yes").code == 0
    assert file.with_name("orders.db").exists()
    assert minted("reconcile", "--list").out == "0 settled, nothing is open\n"


# --- passwords ---------------------------------------------------------------------------------------------------


def test_a_password_from_standard_input_or_a_file(minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    assert minted("rates", "--password-stdin", stdin=f"{sandbox.password}\n", env=NO_PASSWORD).code == 0
    file = private(tmp_path / "password", f"{sandbox.password}\n")
    assert minted("rates", "--password-file", file, env=NO_PASSWORD).code == 0
    file.chmod(0o644)
    assert "other users can access" in minted("rates", "--password-file", file, env=NO_PASSWORD).err


def test_a_profile_says_where_its_password_is(
    minted: Minted, config: Callable[..., Path], profile: str, sandbox: ThreadedSandbox
) -> None:
    file = config(profile.replace(f'password = "{sandbox.password}"', 'password_file = "secret"'))
    private(file.with_name("secret"), sandbox.password)
    assert minted("rates", env=NO_PASSWORD).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "there is no terminal to prompt on"),
        (("--password-stdin",), "standard input gave no password"),
        (("--password-file", "/no/such/file"), "cannot be read (FileNotFoundError)"),
        (("--password-file", os.devnull), ""),
    ],
)
def test_without_a_password_nothing_is_sent(
    minted: Minted, sandbox: ThreadedSandbox, words: tuple[str, ...], says: str
) -> None:
    result = minted("rates", *words, env=NO_PASSWORD)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("minted: password: ")
    assert says in line
    assert not sandbox.requests


def test_a_password_from_the_keyring(
    minted: Minted, sandbox: ThreadedSandbox, config: Callable[..., Path], profile: str
) -> None:
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    class Ring(KeyringBackend):
        priority = 1  # type: ignore[assignment]
        kept: str | None = sandbox.password

        def get_password(self, service: str, username: str) -> str | None:
            assert (service, username) == ("minted-connect", sandbox.username)
            if self.kept == "locked":
                raise KeyringLocked("the secret is hunter2")
            return self.kept

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    try:
        assert minted("rates", "--keyring", env=NO_PASSWORD).code == 0
        config(profile.replace(f'password = "{sandbox.password}"', "keyring = true"))
        assert minted("rates", env=NO_PASSWORD).code == 0
        ring.kept = None
        assert "keyring set minted-connect" in minted("rates", "--keyring", env=NO_PASSWORD).err
        ring.kept = "locked"
        result = minted("rates", "--keyring", env=NO_PASSWORD)
        assert (result.code, result.err) == (2, "minted: password: the keyring cannot be used (KeyringLocked)\n")
    finally:
        keyring.set_keyring(before)


def test_a_password_is_asked_for_and_not_shown(
    environment: dict[str, str], terminal: Callable[..., Terminal], sandbox: ThreadedSandbox
) -> None:
    del environment["MINTED_CONNECT_PASSWORD"]
    asked = terminal("rates", "--json")
    asked.expect(f"Password of {sandbox.username}: ")
    asked.type(f"{sandbox.password}\n")
    assert asked.end() == 0
    assert sandbox.password not in asked.screen
    refused = terminal("rates")
    refused.expect("Password of ")
    refused.type("\x03")
    assert refused.end() == 130
    assert "Traceback" not in refused.screen


def test_the_password_is_in_no_output(minted: Minted, sandbox: ThreadedSandbox) -> None:
    for words in (("doctor",), ("doctor", "--json"), ("rates", "--base-url", "http://127.0.0.1:1")):
        result = minted(*words)
        assert sandbox.password not in result.out + result.err


def test_the_module_runs_as_the_script_does() -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-m", "minted_connect.cli"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage:" in done.stdout
