import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox.__main__ import main

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def launch():
    processes = []

    def launch(*arguments, **environment):
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "minted_connect.sandbox", *arguments]
        inherited = {name: value for name, value in os.environ.items() if name != "MINTED_CONNECT_PASSWORD"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**inherited, **environment}
        )
        processes.append(process)
        return process

    yield launch
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_signal(launch, number):
    process = launch("--port", "0", "--seed", "7")
    line = process.stdout.readline()
    url, username, password = re.fullmatch(
        r"(\S+)  username: (\S+)  password: (\S+)  console: \1/_sandbox  seed: 7\n", line
    ).groups()
    assert username == "sandbox"
    assert len(password) > 20
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url)
    error.value.close()
    assert error.value.code == 401
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")


@needs_posix
@pytest.mark.parametrize("given", [None, "of-my-own"])
def test_json_option_prints_address(launch, given):
    arguments = ["--port", "0", "--json", "--no-console"]
    process = launch(*arguments, MINTED_CONNECT_PASSWORD=given) if given else launch(*arguments)
    printed = json.loads(process.stdout.readline())
    assert printed["url"].startswith("http://127.0.0.1:")
    assert (printed["username"], printed["console"]) == ("sandbox", None)
    assert printed["password"] is None if given else len(printed["password"]) > 20
    assert isinstance(printed["seed"], int)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "")


def test_wrong_usage_exits_2_with_one_line(launch):
    process = launch("--nonsense")
    _, errors = process.communicate(timeout=20)
    expected = (
        "python -m minted_connect.sandbox: unrecognized arguments: --nonsense; "
        "see python -m minted_connect.sandbox --help\n"
    )
    assert (process.returncode, errors) == (2, expected)


@needs_posix
def test_given_password_is_not_printed(launch, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("from-file\r\nsecond line\n")
    arguments = ["--port", "0", "--state", str(tmp_path / "shop.sqlite"), "--algorithm", "MD5", "--username", "me"]
    # In sequence, because only one sandbox at a time can use a state file.
    for more, environment in (
        ((), {"MINTED_CONNECT_PASSWORD": "from-environment"}),
        (("--password-file", str(secret)), {}),
    ):
        process = launch(*arguments, *more, **environment)
        line = process.stdout.readline()
        assert "username: me" in line
        assert "(as given)" in line
        assert "from-" not in line
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
    assert (tmp_path / "shop.sqlite").exists()


def test_port_in_use_exits_2_with_one_line(capsys, monkeypatch):
    monkeypatch.delenv("MINTED_CONNECT_PASSWORD", raising=False)
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        assert main(["--port", str(occupied.getsockname()[1])]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"sandbox: .*address already in use.*\n", shown.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--price-interval", "0"],
        ["--username", "a:b"],
        ["--username", ""],
        ["--password-file", "/nowhere/at/all"],
        ["--password-file", os.devnull],
        ["--state", "/nowhere/at/all"],
    ],
)
def test_invalid_value_exits_2_with_one_line(capsys, arguments):
    assert main(["--port", "0", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_empty_password_file_is_named(capsys, tmp_path):
    empty = tmp_path / "password"
    empty.write_text("\nsecond line\n")
    assert main(["--password-file", str(empty)]) == 2
    assert capsys.readouterr().err == f"sandbox: the first line of {empty} is empty: it must contain the password\n"


def test_help_shows_defaults_and_units(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: SHA-256 and MD5)" in shown
    assert "--price-interval SECONDS" in shown
    assert "in seconds (default: 5.0)" in shown


def test_too_long_url_gets_400_without_traceback(launch):
    process = launch("--port", "0")
    url = process.stdout.readline().split()[0]
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{url}/{'a' * 20_000}")
    error.value.close()
    assert error.value.code == 400
    process.terminate()
    assert process.communicate(timeout=20) == ("", "")


def test_password_argument_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--password", "x"])
    assert stop.value.code == 2
    capsys.readouterr()


@needs_posix
def test_quirks_option_reaches_the_sandbox(launch):
    process = launch("--port", "0", "--quirks", "laravel", MINTED_CONNECT_PASSWORD="secret")
    url = process.stdout.readline().split()[0]
    with MintedConnect("sandbox", "secret", base_url=url) as minted:
        assert minted.products.page().raw["current_page"] == "1"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "")
