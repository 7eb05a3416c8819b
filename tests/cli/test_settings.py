"""Sources of server and credentials: options, the named profile, the environment, the default profile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, Terminal

NO_LOGIN = dict.fromkeys(["MINTED_CONNECT_BASE_URL", "MINTED_CONNECT_USERNAME", "MINTED_CONNECT_PASSWORD"])
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


def write_private(file: Path, text: str) -> Path:
    file.touch(0o600)
    file.write_text(text, "utf-8")
    return file


@pytest.fixture
def profile(sandbox: ThreadedSandbox) -> str:
    return (
        f'default = "here"\n[profiles.here]\nbase_url = "{sandbox.url}"\nusername = "{sandbox.username}"\n'
        f'password = "{sandbox.password}"\nlanguage = "en"\n'
    )


def test_default_profile_is_used(minted: Minted, config: Callable[..., Path], profile: str) -> None:
    config(profile)
    assert minted("rates", env=NO_LOGIN).code == 0
    minted("customer", "create", CUSTOMER, env=NO_LOGIN)
    assert "invalid" in minted("basket", "add", CUSTOMER, "NO-SUCH-SKU", env=NO_LOGIN).err.lower()


def test_profile_is_selected_by_option_or_environment(
    minted: Minted, config: Callable[..., Path], profile: str
) -> None:
    config(profile.replace('default = "here"\n', ""))
    assert minted("rates", env=NO_LOGIN).code == 2
    assert minted("rates", "--profile", "here", env=NO_LOGIN).code == 0
    assert minted("rates", env={**NO_LOGIN, "MINTED_CONNECT_PROFILE": "here"}).code == 0
    there = config(profile).rename(config(profile).with_name("elsewhere.toml"))
    assert minted("rates", env={**NO_LOGIN, "MINTED_CONNECT_CONFIG": str(there)}).code == 0


def test_option_precedes_environment_precedes_default_profile(
    minted: Minted, config: Callable[..., Path], profile: str
) -> None:
    config(profile.replace("http://", "https://"))
    assert minted("rates").code == 0
    assert minted("rates", "--base-url", "http://127.0.0.1:1").code == 4


def test_named_profile_precedes_environment(
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
    # User name and password must come from the same source.
    assert "password: give" in minted("rates", "--profile", "here", env=elsewhere).err


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
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
def test_invalid_config_file_exits_2_with_one_line(
    minted: Minted, config: Callable[..., Path], sandbox: ThreadedSandbox, text: str, mode: int, expected: str
) -> None:
    config(text, mode)
    result = minted("rates")
    if expected:
        (line,) = result.err.splitlines()
        assert expected in line
    assert (result.code, result.out) == (2, "")
    assert not sandbox.requests


def test_missing_config_file_or_profile_exits_2(minted: Minted, tmp_path: Path) -> None:
    assert minted("rates", "--profile", "here").code == 2
    result = minted("rates", env={"MINTED_CONNECT_CONFIG": str(tmp_path / "none.toml")})
    assert result.code == 2
    assert f"the configuration file {tmp_path / 'none.toml'} does not exist" in result.err
    result = minted("rates", env={"MINTED_CONNECT_CONFIG": str(tmp_path)})
    assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_profile_paths_override_paths_of_operations(minted: Minted, config: Callable[..., Path], profile: str) -> None:
    elsewhere = "/partner/walletable/currency-rates"
    with ThreadedSandbox(paths={"rates.current": elsewhere}) as moved:
        url = {"MINTED_CONNECT_BASE_URL": moved.url, "MINTED_CONNECT_PASSWORD": moved.password}
        assert minted("rates", env=url).code == 3
        config(f'{profile}[profiles.here.paths]\n"rates.current" = "{elsewhere}"\n')
        assert minted("rates", env=url).code == 0


def test_relative_journal_of_profile_is_beside_config_file(
    minted: Minted, config: Callable[..., Path], profile: str
) -> None:
    file = config(f'{profile}journal = "orders.db"\n')
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("buy", CUSTOMER, "--yes").code == 0
    assert file.with_name("orders.db").exists()
    assert minted("reconcile", "--list").out == f"0 settled, nothing is open in {file.with_name('orders.db')}\n"


# --- passwords ---------------------------------------------------------------------------------------------------


def test_password_is_read_from_stdin_or_file(minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    assert minted("rates", "--password-stdin", stdin=f"{sandbox.password}\n", env=NO_PASSWORD).code == 0
    file = write_private(tmp_path / "password", f"{sandbox.password}\n")
    assert minted("rates", "--password-file", file, env=NO_PASSWORD).code == 0
    file.chmod(0o644)
    assert "other users can access" in minted("rates", "--password-file", file, env=NO_PASSWORD).err


def test_profile_names_password_file(
    minted: Minted, config: Callable[..., Path], profile: str, sandbox: ThreadedSandbox
) -> None:
    file = config(profile.replace(f'password = "{sandbox.password}"', 'password_file = "secret"'))
    write_private(file.with_name("secret"), sandbox.password)
    assert minted("rates", env=NO_PASSWORD).code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "there is no terminal to prompt on"),
        (("--password-stdin",), "standard input gave no password"),
        (("--password-file", "/no/such/file"), "cannot be read (FileNotFoundError)"),
        (("--password-file", os.devnull), ""),
    ],
)
def test_missing_password_exits_2_without_request(
    minted: Minted, sandbox: ThreadedSandbox, arguments: tuple[str, ...], expected: str
) -> None:
    result = minted("rates", *arguments, env=NO_PASSWORD)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("minted: password: ")
    assert expected in line
    assert not sandbox.requests


def test_password_is_read_from_keyring(
    minted: Minted, sandbox: ThreadedSandbox, config: Callable[..., Path], profile: str
) -> None:
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    class FakeKeyring(KeyringBackend):
        priority = 1  # type: ignore[assignment]
        stored: str | None = sandbox.password

        def get_password(self, service: str, username: str) -> str | None:
            assert (service, username) == ("minted-connect", sandbox.username)
            if self.stored == "locked":
                raise KeyringLocked("the secret is hunter2")
            return self.stored

        def set_password(self, service: str, username: str, password: str) -> None:
            raise NotImplementedError

    before = keyring.get_keyring()
    fake_keyring = FakeKeyring()
    keyring.set_keyring(fake_keyring)
    try:
        assert minted("rates", "--keyring", env=NO_PASSWORD).code == 0
        config(profile.replace(f'password = "{sandbox.password}"', "keyring = true"))
        assert minted("rates", env=NO_PASSWORD).code == 0
        fake_keyring.stored = None
        assert "keyring set minted-connect" in minted("rates", "--keyring", env=NO_PASSWORD).err
        fake_keyring.stored = "locked"
        result = minted("rates", "--keyring", env=NO_PASSWORD)
        assert (result.code, result.err) == (2, "minted: password: the keyring cannot be used (KeyringLocked)\n")
    finally:
        keyring.set_keyring(before)


def test_password_prompt_shows_no_password(
    environment: dict[str, str], terminal: Callable[..., Terminal], sandbox: ThreadedSandbox
) -> None:
    del environment["MINTED_CONNECT_PASSWORD"]
    prompt = terminal("rates", "--json")
    prompt.expect(f"Password of {sandbox.username}: ")
    prompt.type(f"{sandbox.password}\n")
    assert prompt.end() == 0
    assert sandbox.password not in prompt.screen
    interrupted = terminal("rates")
    interrupted.expect("Password of ")
    interrupted.type("\x03")
    assert interrupted.end() == 130
    assert "Traceback" not in interrupted.screen


def test_output_contains_no_password(minted: Minted, sandbox: ThreadedSandbox) -> None:
    for arguments in (("doctor",), ("doctor", "--json"), ("rates", "--base-url", "http://127.0.0.1:1")):
        result = minted(*arguments)
        assert sandbox.password not in result.out + result.err


def test_module_runs_like_script() -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-m", "minted_connect.cli"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage:" in done.stdout
