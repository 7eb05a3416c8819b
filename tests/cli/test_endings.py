"""Exit codes, one-line errors, Ctrl-C, closed pipes and terminals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from minted_connect.cli.app import app
from minted_connect.cli.exit_codes import ExitCode, exit_code_for
from minted_connect.cli.output import Output, format_cell, to_jsonable
from minted_connect.cli.wait_notice import WaitNotice
from minted_connect.config import Timeouts
from minted_connect.errors import OrderUnreadable, Phase
from minted_connect.hooks import Attempt
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, Terminal
from tests.support.subprocesses import until

COMPLETE = "/partner/walletable/complete/buy"
BASKET = "/partner/walletable/basket"
Shell = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ready(minted: Minted) -> Minted:
    """The customer has an open basket."""
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    return minted


def one_line(err: str) -> str:
    (line,) = err.splitlines()
    assert line.startswith("minted: ")
    return line.removeprefix("minted: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonsense",), "No such command"),
        (("rats",), "Did you mean 'rates'?; see minted --help"),
        (("rates", "--nonsense"), "No such option"),
        (("rates", "watch", "--interval", "soon"), "valid number"),
        (("basket", "set", CUSTOMER, GOLD, "0"), "greater than or equal to 1"),
        (("buy",), "Missing argument 'CUSTOMER'; see minted buy --help"),
        (("customer", "create", CUSTOMER, "--gender", "X"), "is not one of"),
        (("rates", "history", "--start", "yesterday"), "does not match the format"),
        (("rates", "--password", "secret"), "No such option"),
        (("wallet", CUSTOMER, "\x1b[2J"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_2_in_one_line(
    minted: Minted, sandbox: ThreadedSandbox, words: tuple[str, ...], says: str
) -> None:
    result = minted(*words)
    assert (result.code, result.out) == (2, "")
    assert says in one_line(result.err)
    assert "secret" not in result.err
    assert "\x1b" not in result.err
    assert not sandbox.requests


@pytest.mark.parametrize("words", [(), ("customer",), ("basket",)])
def test_no_command_shows_those_there_are(minted: Minted, words: tuple[str, ...]) -> None:
    result = minted(*words)
    assert result.code == 2
    assert "Usage" in result.out
    assert not result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("customer", "create", " "), "customer_id: "),
        (("rates", "history", "--start", "2026-03-01"), "metal: "),
        (("rates", "history", "--save", "prices.xls"), "save: must end in one of "),
        (
            ("rates", "history", "--save", "/no/such/directory/prices.csv"),
            "save: the directory /no/such/directory does not exist",
        ),
        (("buy", CUSTOMER, "--expect-total", "much"), "expect-total: must be an amount"),
        (("deliver", CUSTOMER, "--address", "/no/such/file"), "address: cannot be read"),
        (("reconcile", "--decide", "perhaps", "--intent", "x"), "decide: must be one of"),
        (("reconcile", "--journal", "/no/such/file.db"), "journal: there is no file"),
        (("rates", "--base-url", "http://example.com"), "base_url: plain http"),
        (("rates", "--base-url", "nonsense"), "base_url: must be an absolute"),
        (("rates", "watch", "--interval", "-1"), "interval: "),
    ],
)
def test_wrong_values_end_with_2_in_one_line(
    minted: Minted, sandbox: ThreadedSandbox, words: tuple[str, ...], says: str
) -> None:
    result = minted(*words)
    assert (result.code, result.out) == (2, "")
    assert one_line(result.err).startswith(says)
    assert not sandbox.requests


def test_what_the_server_refuses_ends_with_3(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    result = minted("basket", "add", CUSTOMER, "NO-SUCH-SKU", "--language", "en")
    assert result.code == 3
    assert one_line(result.err).startswith("POST /partner/walletable/basket: 422 sku")
    wrong = minted("rates", env={"MINTED_CONNECT_PASSWORD": "other"})
    assert wrong.code == 3
    assert "other" not in wrong.err


def test_what_was_not_sent_ends_with_4(minted: Minted) -> None:
    result = minted("rates", "--base-url", "http://127.0.0.1:1")
    assert result.code == 4
    assert "no connection to the server" in one_line(result.err)


def test_reading_that_fails_ends_with_1_and_a_change_that_may_have_happened_with_75(
    minted: Minted, sandbox: ThreadedSandbox
) -> None:
    minted("customer", "create", CUSTOMER)
    sandbox.faults.add("invalid_json", path="*/rates", times=None)
    assert minted("rates").code == 1
    sandbox.faults.add("drop_after_commit", method="POST", path=BASKET)
    result = minted("basket", "add", CUSTOMER, GOLD)
    assert result.code == 75
    assert "broke before a response came" in result.err
    assert json.loads(minted("basket", "show", CUSTOMER, "--json").out)["items"][0]["sku"] == GOLD


@pytest.mark.parametrize(("status", "code"), [(408, 75), (425, 75), (500, 75), (409, 3), (400, 3)])
def test_a_change_that_cannot_be_looked_at_afterwards(
    minted: Minted, sandbox: ThreadedSandbox, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One read instead of several over half a minute: this test is about the exit code.
    monkeypatch.setattr("minted_connect.core.api_client.read_back_offsets", lambda _: (0.0,))
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    sandbox.faults.add("status", status=status, method="POST", path=BASKET)
    sandbox.faults.add("status", status=500, method="GET", path=BASKET, after=1, times=None)
    result = minted("basket", "add", CUSTOMER, GOLD)
    assert (result.code, result.out) == (code, "")


def test_a_wait_for_the_outcome_of_a_change_is_announced_once(
    minted: Minted, sandbox: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minted_connect.cli.wait_notice._DELAY", 0.1)
    monkeypatch.setattr("minted_connect.core.api_client.read_back_offsets", lambda _: (0.0, 0.3, 0.6))
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    sandbox.faults.add("status", status=500, method="POST", path=BASKET)
    result = minted("basket", "add", CUSTOMER, GOLD)
    assert result.code == 75
    assert result.err.splitlines()[:-1] == [
        f"minted: POST {BASKET} failed (status 500): waiting for up to 60 s to find out whether the change was made"
    ]
    assert "waiting" not in minted("basket", "set", CUSTOMER, GOLD, "2").err


@pytest.mark.parametrize(
    ("operation", "changes", "is_announced"),
    [
        ("complete.buy", {"status": 403, "error": "PermissionDenied"}, True),
        ("complete.buy", {"error": "ConnectionLost"}, True),
        ("complete.buy", {"status": 200}, False),
        ("complete.buy", {"error": "ConnectFailed", "phase": Phase.NOT_SENT}, False),
        ("complete.buy", {"error": "CancelledError"}, False),
        ("baskets.get_active", {"status": 500, "error": "ServerError"}, False),
        ("request", {"status": 500, "error": "ServerError"}, False),
    ],
)
async def test_only_a_change_that_may_have_been_made_is_announced(
    operation: str,
    changes: dict[str, Any],
    is_announced: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("minted_connect.cli.wait_notice._DELAY", 0.0)
    attempt = Attempt(
        operation=operation,
        method="POST",
        route="/path",
        server="https://example.com",
        number=1,
        started_at=datetime.now(UTC),
        elapsed=0.1,
        **{"phase": Phase.SENT, **changes},
    )
    notice = WaitNotice(Output(as_json=False), Timeouts())
    notice.on_attempt(attempt)
    await asyncio.sleep(0.01)
    assert ("to find out whether an order was placed" in capsys.readouterr().err) is is_announced
    notice.cancel()


def test_a_purchase_of_unknown_outcome_ends_with_75_and_is_found_out(ready: Minted, sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("drop_after_commit", path=COMPLETE)
    result = ready("buy", CUSTOMER, "--yes")
    assert result.code == 75
    assert "do not repeat it; find out with: minted reconcile --intent " in result.err
    intent = result.err.strip().rpartition(" ")[2]
    found = ready("reconcile", "--intent", intent, "--json")
    assert found.code == 0
    assert json.loads(found.out)["state"] == "confirmed"
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


def test_help_of_everything(minted: Minted) -> None:
    def walk(command: object, words: tuple[str, ...]) -> None:
        result = minted(*words, "--help")
        assert result.code == 0, words
        below = getattr(command, "commands", {})
        assert below or "--json" in result.out, words
        for name, one in below.items():
            if name != "sandbox":  # the sandbox prints its own help
                walk(one, (*words, name))

    walk(get_command(app), ())
    for name in ("--profile", "--json", "--password-file"):
        assert name in minted("rates", "watch", "--help").out


def test_help_loads_neither_aiohttp_nor_the_models(environment: dict[str, str]) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from minted_connect.cli.app import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([name for name in ('aiohttp', 'attrs', 'cattrs', 'minted_connect.errors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("plotext", ("rates", "history", "--metal", "gold", "--chart"), "charts"),
        ("matplotlib", ("rates", "history", "--metal", "gold", "--save", "prices.svg"), "charts"),
        ("pyarrow.parquet", ("rates", "history", "--metal", "gold", "--save", "prices.parquet"), "dataframe"),
        ("keyring", ("rates", "--keyring"), "keyring"),
    ],
)
def test_a_missing_extra_is_named(
    minted: Minted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, words: tuple[str, ...], extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    result = minted(*words, env={"MINTED_CONNECT_PASSWORD": None}) if extra == "keyring" else minted(*words)
    assert result.code == 2
    assert one_line(result.err).endswith(f'pip install "minted-connect[{extra}]"')


def test_without_its_extra_the_command_line_says_so() -> None:
    code = "import sys; sys.modules['typer'] = None; from minted_connect.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "rates"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'minted: the command line needs its extra: pip install "minted-connect[cli]"\n'


def test_the_sandbox_is_served_until_sigterm(shell: Shell) -> None:
    process = shell("sandbox", "--port", "0")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_options_of_the_sandbox_are_its_own(shell: Shell) -> None:
    out, err = shell("sandbox", "--help").communicate(timeout=20)
    assert out.startswith("usage: minted sandbox")
    assert err == ""


def test_a_reader_that_goes_away_ends_a_watch(shell: Shell) -> None:
    process = shell("rates", "watch", "--interval", "0.05")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("Dirham Gold")
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_ctrl_c_ends_a_watch_without_a_word(shell: Shell) -> None:
    process = shell("rates", "watch", "--interval", "0.05", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert all(json.loads(line) for line in out.splitlines())


def test_ctrl_c_in_the_middle_of_a_purchase_names_the_intent(
    ready: Minted, shell: Shell, sandbox: ThreadedSandbox
) -> None:
    fault = sandbox.faults.add("hang", path=COMPLETE, commit=True)
    process = shell("buy", CUSTOMER, "--yes")
    until(lambda: fault.hits)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "intent" in err
    fault.remove()
    found = ready("reconcile", "--json")
    assert found.code == 0
    assert json.loads(found.out)["state"] == "confirmed"
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


# --- terminals ---------------------------------------------------------------------------------------------------


def test_on_a_terminal_a_table_is_drawn_and_no_color_obeyed(terminal: Callable[..., Terminal]) -> None:
    drawn = terminal("rates")
    assert drawn.end() == 0
    assert "┃" in drawn.screen
    assert "\x1b[1m" in drawn.screen
    history = ("rates", "history", "--metal", "gold", "--start", "2026-03-01", "--end", "2026-03-09", "--chart")
    coloured = terminal(*history)
    assert coloured.end() == 0
    assert "\x1b[" in coloured.screen
    plainly = terminal(*history, env={"NO_COLOR": "1"})
    assert plainly.end() == 0
    assert "\x1b" not in plainly.screen


def test_watch_is_drawn_anew_and_ctrl_c_leaves_the_cursor(terminal: Callable[..., Terminal]) -> None:
    watch = terminal("rates", "watch", "--interval", "0.2")
    watch.expect("Dirham Silver")
    watch.expect(r"\x1b\[1A")
    watch.type("\x03")
    assert watch.end() == 130
    assert "\x1b[?25h" in watch.screen[-20:]


def test_the_price_lock_runs_down_while_a_person_is_asked(ready: Minted, terminal: Callable[..., Terminal]) -> None:
    buying = terminal("buy", CUSTOMER)
    buying.expect(r"Buy for [0-9.]+ AED at 127\.0\.0\.1:[0-9]+\? \[y/N\] ")
    buying.expect(r"\x1b\[1A\r\x1b\[2Kthe price is locked for [0-9]+ s")
    buying.type("y\n")
    assert buying.end() == 0
    assert "Pending" in buying.screen


@pytest.mark.parametrize(("reply", "code"), [("\n", 1), ("n\n", 1), ("\x04", 1), ("\x03", 130)])
def test_anything_but_yes_buys_nothing(
    ready: Minted, terminal: Callable[..., Terminal], sandbox: ThreadedSandbox, reply: str, code: int
) -> None:
    buying = terminal("buy", CUSTOMER)
    buying.expect(r"\[y/N\] ")
    buying.type(reply)
    assert buying.end() == code
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


def test_a_lock_that_runs_out_is_shown_and_asked_about_again(
    minted: Minted, environment: dict[str, str], terminal: Callable[..., Terminal]
) -> None:
    with ThreadedSandbox(seed=1, lock_seconds=3) as short:
        environment |= {"MINTED_CONNECT_BASE_URL": short.url, "MINTED_CONNECT_PASSWORD": short.password}
        minted("customer", "create", CUSTOMER)
        minted("basket", "add", CUSTOMER, GOLD)
        buying = terminal("buy", CUSTOMER)
        buying.expect("the price lock expired; the current basket is:")
        buying.expect(r"\[y/N\] ")
        buying.type("\n")
        assert buying.end() == 1
        assert not [one for one in short.requests if one.path == COMPLETE]


def test_without_a_terminal_nobody_is_asked(ready: Minted, sandbox: ThreadedSandbox) -> None:
    result = ready("buy", CUSTOMER, stdin="y\n")
    assert result.code == 2
    assert result.err.splitlines()[-1] == ("minted: confirmation needs a terminal: pass --yes to proceed without it")
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


# --- output ------------------------------------------------------------------------------------------------------


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert format_cell("gold\x1b[2J\x07\n\u202egold") == "gold\ufffd[2J\ufffd\ufffd\ufffdgold"
    assert format_cell(None) == ""


@pytest.mark.parametrize("width", [20, 40, 80])
def test_an_amount_is_never_cut(width: int) -> None:
    import io
    from decimal import Decimal

    from rich.console import Console

    from minted_connect.cli.output import build_table

    shown = io.StringIO()
    rows = [["Minted 1 g 999.9 Gold Bar", "shop-customer-with-a-long-name", Decimal("1234567.89")]]
    Console(file=shown, width=width, force_terminal=True).print(build_table(["line", "customer", "total"], rows))
    assert "1234567.89" in shown.getvalue()
    assert "\u2026" not in shown.getvalue()


def test_no_float_is_written_for_money() -> None:
    from decimal import Decimal

    assert to_jsonable({"a": [Decimal("1E+3"), Decimal("0.10")]}) == {"a": ["1000", "0.10"]}


def test_a_purchase_whose_result_cannot_be_shown_is_done_and_says_so(
    ready: Minted, shell: Shell, sandbox: ThreadedSandbox
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE)
    process = shell("buy", CUSTOMER, "--yes")
    until(lambda: hang.waiting)
    assert process.stdout is not None
    process.stdout.close()
    hang.remove()
    assert process.wait(20) == 0
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert "minted: done (" in err
    assert "could not be printed: BrokenPipeError" in err
    assert len(sandbox.shop.orders) == 1


def test_a_change_whose_result_cannot_be_shown_is_not_called_a_failure(
    ready: Minted, shell: Shell, sandbox: ThreadedSandbox
) -> None:
    hang = sandbox.faults.add("hang", method="PATCH", path=BASKET)
    process = shell("basket", "set", CUSTOMER, GOLD, "2")
    until(lambda: hang.waiting)
    assert process.stdout is not None
    process.stdout.close()
    hang.remove()
    assert process.wait(20) == 75
    assert process.stderr is not None
    process.stderr.close()


def test_a_terminal_without_the_letters_shows_escapes(environment: dict[str, str], shell: Shell) -> None:
    environment |= {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    out, err = shell("products").communicate(timeout=20)
    assert err == ""
    assert "\\u" in out or out.isascii()


def test_a_watch_says_why_no_price_comes(shell: Shell, environment: dict[str, str], sandbox: ThreadedSandbox) -> None:
    down = sandbox.faults.add("status", path="*/rates", status=503, times=None)
    process = shell("rates", "watch", "--interval", "0.05", "--count", "1")
    assert process.stderr is not None
    assert re.fullmatch(r"minted: .*: 503 .*; retrying\n", process.stderr.readline())
    down.remove()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("Dirham Gold")


def test_a_live_watch_says_why_no_price_comes(terminal: Callable[..., Terminal], sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("status", path="*/rates", status=503, times=None)
    watch = terminal("rates", "watch", "--interval", "0.05")
    watch.expect(r"rates: 503 ")
    watch.type("\x03")
    assert watch.end() == 130


def test_the_shell_completes_commands(environment: dict[str, str]) -> None:
    script = str(Path(sys.executable).with_name("minted"))
    asked = {"_MINTED_COMPLETE": "complete_bash", "COMP_WORDS": "minted re", "COMP_CWORD": "1"}
    done = subprocess.run([script], env={**environment, **asked}, capture_output=True, text=True, check=False)
    assert sorted(done.stdout.split()) == ["receipt", "reconcile"]


@pytest.mark.parametrize("changes", [False, True])
def test_exit_of_an_unreadable_order_is_unknown(changes: bool) -> None:
    # The purchase is confirmed, so the exit code must not suggest that nothing happened.
    assert exit_code_for(OrderUnreadable("the purchase is confirmed"), changes=changes) is ExitCode.UNKNOWN
