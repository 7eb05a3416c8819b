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
def minted_with_basket(minted: Minted) -> Minted:
    """Return `minted` for a customer with an open basket."""
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    return minted


def error_line(err: str) -> str:
    (line,) = err.splitlines()
    assert line.startswith("minted: ")
    return line.removeprefix("minted: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
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
def test_wrong_usage_exits_2_with_one_line(
    minted: Minted, sandbox: ThreadedSandbox, arguments: tuple[str, ...], expected: str
) -> None:
    result = minted(*arguments)
    assert (result.code, result.out) == (2, "")
    assert expected in error_line(result.err)
    assert "secret" not in result.err
    assert "\x1b" not in result.err
    assert not sandbox.requests


@pytest.mark.parametrize("arguments", [(), ("customer",), ("basket",)])
def test_missing_subcommand_prints_usage(minted: Minted, arguments: tuple[str, ...]) -> None:
    result = minted(*arguments)
    assert result.code == 2
    assert "Usage" in result.out
    assert not result.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("customer", "create", " "), "CUSTOMER: "),
        (("rates", "history", "--start", "2026-03-01"), "--metal: "),
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
        (("rates", "watch", "--interval", "-1"), "--interval: "),
    ],
)
def test_invalid_values_exit_2_with_one_line(
    minted: Minted, sandbox: ThreadedSandbox, arguments: tuple[str, ...], expected: str
) -> None:
    result = minted(*arguments)
    assert (result.code, result.out) == (2, "")
    assert error_line(result.err).startswith(expected)
    assert not sandbox.requests


def test_refused_request_exits_3(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    result = minted("basket", "add", CUSTOMER, "NO-SUCH-SKU", "--language", "en")
    assert result.code == 3
    assert error_line(result.err).startswith("POST /partner/walletable/basket: 422 sku")
    refused = minted("rates", env={"MINTED_CONNECT_PASSWORD": "other"})
    assert refused.code == 3
    assert "other" not in refused.err


def test_unsent_request_exits_4(minted: Minted) -> None:
    result = minted("rates", "--base-url", "http://127.0.0.1:1")
    assert result.code == 4
    assert "no connection to the server" in error_line(result.err)


def test_failed_read_exits_1_and_change_in_doubt_exits_75(minted: Minted, sandbox: ThreadedSandbox) -> None:
    minted("customer", "create", CUSTOMER)
    sandbox.faults.add("invalid_json", path="*/rates", times=None)
    assert minted("rates").code == 1
    sandbox.faults.add("drop_after_commit", method="POST", path=BASKET)
    result = minted("basket", "add", CUSTOMER, GOLD)
    assert result.code == 75
    assert "broke before a response came" in result.err
    assert json.loads(minted("basket", "show", CUSTOMER, "--json").out)["items"][0]["sku"] == GOLD


@pytest.mark.parametrize(("status", "code"), [(408, 75), (425, 75), (500, 75), (409, 3), (400, 3)])
def test_change_without_read_back_exits_75_or_3(
    minted: Minted, sandbox: ThreadedSandbox, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One read-back instead of several over half a minute, because only the exit code is tested.
    monkeypatch.setattr("minted_connect.core.api_client.read_back_offsets", lambda _: (0.0,))
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    sandbox.faults.add("status", status=status, method="POST", path=BASKET)
    sandbox.faults.add("status", status=500, method="GET", path=BASKET, after=1, times=None)
    result = minted("basket", "add", CUSTOMER, GOLD)
    assert (result.code, result.out) == (code, "")


def test_wait_for_outcome_of_change_is_announced_once(
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
async def test_wait_notice_is_printed_only_for_change_in_doubt(
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


def test_purchase_with_unknown_outcome_can_be_reconciled(minted_with_basket: Minted, sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("drop_after_commit", path=COMPLETE)
    result = minted_with_basket("buy", CUSTOMER, "--yes")
    assert result.code == 75
    assert "do not repeat it; find out with: minted reconcile --base-url http://127.0.0.1:" in result.err
    intent = result.err.strip().rpartition(" ")[2]
    found = minted_with_basket("reconcile", "--intent", intent, "--json")
    assert found.code == 0
    assert json.loads(found.out)["state"] == "confirmed"
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


def test_every_command_has_help(minted: Minted) -> None:
    def walk(command: object, arguments: tuple[str, ...]) -> None:
        result = minted(*arguments, "--help")
        assert result.code == 0, arguments
        below = getattr(command, "commands", {})
        assert below or "--json" in result.out, arguments
        for name, one in below.items():
            if name != "sandbox":  # the sandbox prints its own help
                walk(one, (*arguments, name))

    walk(get_command(app), ())
    for name in ("--profile", "--json", "--password-file"):
        assert name in minted("rates", "watch", "--help").out


def test_help_imports_neither_aiohttp_nor_models(environment: dict[str, str]) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from minted_connect.cli.app import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([name for name in ('aiohttp', 'attrs', 'cattrs', 'minted_connect.errors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("plotext", ("rates", "history", "--metal", "gold", "--chart"), "charts"),
        ("matplotlib", ("rates", "history", "--metal", "gold", "--save", "prices.svg"), "charts"),
        ("pyarrow.parquet", ("rates", "history", "--metal", "gold", "--save", "prices.parquet"), "dataframe"),
        ("keyring", ("rates", "--keyring"), "keyring"),
    ],
)
def test_missing_module_exits_2_and_names_extra(
    minted: Minted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, arguments: tuple[str, ...], extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    result = minted(*arguments, env={"MINTED_CONNECT_PASSWORD": None}) if extra == "keyring" else minted(*arguments)
    assert result.code == 2
    assert error_line(result.err).endswith(f'pip install "minted-connect[{extra}]"')


def test_command_line_without_typer_names_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from minted_connect.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "rates"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'minted: the command line needs its extra: pip install "minted-connect[cli]"\n'


def test_sandbox_command_serves_until_sigterm(shell: Shell) -> None:
    process = shell("sandbox", "--port", "0")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_sandbox_command_has_own_help(shell: Shell) -> None:
    out, err = shell("sandbox", "--help").communicate(timeout=20)
    assert out.startswith("usage: minted sandbox")
    assert err == ""


def test_watch_exits_1_when_pipe_is_closed(shell: Shell) -> None:
    process = shell("rates", "watch", "--interval", "0.05")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("time\taccount\t")
    assert process.stdout.readline().split("\t")[1] == "Dirham Gold"
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_watch_exits_130_silently_on_ctrl_c(shell: Shell) -> None:
    process = shell("rates", "watch", "--interval", "0.05", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert all(json.loads(line) for line in out.splitlines())


def test_ctrl_c_during_purchase_names_intent(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox
) -> None:
    fault = sandbox.faults.add("hang", path=COMPLETE, commit=True)
    process = shell("buy", CUSTOMER, "--yes")
    until(lambda: fault.hits)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "intent" in err
    fault.remove()
    found = minted_with_basket("reconcile", "--json")
    assert found.code == 0
    assert json.loads(found.out)["state"] == "confirmed"
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


# --- terminals ---------------------------------------------------------------------------------------------------


def test_terminal_shows_table_and_honours_no_color(terminal: Callable[..., Terminal]) -> None:
    table = terminal("rates")
    assert table.end() == 0
    assert "┃" in table.screen
    assert "\x1b[1m" in table.screen
    history = ("rates", "history", "--metal", "gold", "--start", "2026-03-01", "--end", "2026-03-09", "--chart")
    chart = terminal(*history)
    assert chart.end() == 0
    assert "\x1b[" in chart.screen
    plain_chart = terminal(*history, env={"NO_COLOR": "1"})
    assert plain_chart.end() == 0
    assert "\x1b" not in plain_chart.screen


def test_live_watch_redraws_and_restores_cursor(terminal: Callable[..., Terminal]) -> None:
    watch = terminal("rates", "watch", "--interval", "0.2")
    watch.expect("Dirham Silver")
    watch.expect(r"\x1b\[1A")
    watch.type("\x03")
    assert watch.end() == 130
    assert "\x1b[?25h" in watch.screen[-20:]


def test_prompt_shows_remaining_price_lock(minted_with_basket: Minted, terminal: Callable[..., Terminal]) -> None:
    buying = terminal("buy", CUSTOMER)
    buying.expect(r"Buy for [0-9.]+ AED at 127\.0\.0\.1:[0-9]+\? \[y/N\] ")
    buying.expect(r"\x1b\[1A\r\x1b\[2Kthe price is locked for [0-9]+ s")
    buying.type("y\n")
    assert buying.end() == 0
    assert "Pending" in buying.screen


@pytest.mark.parametrize(("typed", "code"), [("\n", 1), ("n\n", 1), ("\x04", 1), ("\x03", 130)])
def test_prompt_without_yes_places_no_order(
    minted_with_basket: Minted, terminal: Callable[..., Terminal], sandbox: ThreadedSandbox, typed: str, code: int
) -> None:
    buying = terminal("buy", CUSTOMER)
    buying.expect(r"\[y/N\] ")
    buying.type(typed)
    assert buying.end() == code
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


def test_expired_price_lock_prompts_again(
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


def test_purchase_without_terminal_or_yes_exits_2(minted_with_basket: Minted, sandbox: ThreadedSandbox) -> None:
    result = minted_with_basket("buy", CUSTOMER, stdin="y\n")
    assert result.code == 2
    assert result.err.splitlines()[-1] == ("minted: confirmation needs a terminal: pass --yes to proceed without it")
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


# --- output ------------------------------------------------------------------------------------------------------


def test_format_cell_replaces_control_characters() -> None:
    assert format_cell("gold\x1b[2J\x07\n\u202egold") == "gold\ufffd[2J\ufffd\ufffd\ufffdgold"
    assert format_cell(None) == ""


@pytest.mark.parametrize("width", [20, 40, 80])
def test_narrow_table_shows_full_amount(width: int) -> None:
    import io
    from decimal import Decimal

    from rich.console import Console

    from minted_connect.cli.output import build_table

    shown = io.StringIO()
    rows = [["Minted 1 g 999.9 Gold Bar", "shop-customer-with-a-long-name", Decimal("1234567.89")]]
    Console(file=shown, width=width, force_terminal=True).print(build_table(["line", "customer", "total"], rows))
    assert "1234567.89" in shown.getvalue()
    assert "\u2026" not in shown.getvalue()


def test_to_jsonable_writes_amounts_as_text() -> None:
    from decimal import Decimal

    assert to_jsonable({"a": [Decimal("1E+3"), Decimal("0.10")]}) == {"a": ["1000", "0.10"]}


def test_purchase_with_unprintable_result_exits_0(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox
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


def test_change_with_unprintable_result_exits_75(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox
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


def test_products_in_ascii_output_are_escaped(environment: dict[str, str], shell: Shell) -> None:
    environment |= {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    out, err = shell("products").communicate(timeout=20)
    assert err == ""
    assert "\\u" in out or out.isascii()


def test_watch_prints_why_poll_failed(shell: Shell, environment: dict[str, str], sandbox: ThreadedSandbox) -> None:
    down = sandbox.faults.add("status", path="*/rates", status=503, times=None)
    process = shell("rates", "watch", "--interval", "0.05", "--count", "1")
    assert process.stderr is not None
    assert re.fullmatch(r"minted: .*: 503 .*; retrying\n", process.stderr.readline())
    down.remove()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.splitlines()[1].split("\t")[1] == "Dirham Gold"


def test_live_watch_shows_why_poll_failed(terminal: Callable[..., Terminal], sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("status", path="*/rates", status=503, times=None)
    watch = terminal("rates", "watch", "--interval", "0.05")
    watch.expect(r"rates: 503 ")
    watch.type("\x03")
    assert watch.end() == 130


def test_shell_completion_lists_commands(environment: dict[str, str]) -> None:
    script = str(Path(sys.executable).with_name("minted"))
    completion = {"_MINTED_COMPLETE": "complete_bash", "COMP_WORDS": "minted re", "COMP_CWORD": "1"}
    done = subprocess.run([script], env={**environment, **completion}, capture_output=True, text=True, check=False)
    assert sorted(done.stdout.split()) == ["receipt", "reconcile"]


@pytest.mark.parametrize("changes", [False, True])
def test_unreadable_order_has_exit_code_unknown(changes: bool) -> None:
    # The purchase is confirmed, so the exit code must not suggest that nothing happened.
    assert exit_code_for(OrderUnreadable("the purchase is confirmed"), changes=changes) is ExitCode.UNKNOWN
