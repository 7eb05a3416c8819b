"""`python -m minted_connect demo | reconcile`: the commands that need no extra."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from typing import Any, TextIO, cast

from minted_connect._version import __version__
from minted_connect.cli import process

_FAILED = 1
_USAGE = 2
_UNSETTLED = 75
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 success, 1 failure, 2 wrong usage, 75 an outcome is unknown or could not be shown, 130 interrupted (143 by
    SIGTERM, 129 by SIGHUP).
    """
    try:
        return _run(_parser().parse_args(arguments))
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        process.flush_streams()


def _run(given: argparse.Namespace) -> int:
    from minted_connect import ConfigurationError, InvalidInput, MintedConnectError  # noqa: PLC0415 - keeps `--help` fast

    # A full disk must not stop a reconciliation halfway: it records the outcomes in the journal.
    out = process.LossyOutput(sys.stdout)
    try:
        code = process.run_interruptible(lambda: _command(given, cast("TextIO", out))) or 0
    except process.Interrupted as interrupted:
        if given.command == "reconcile" and given.watch:
            return 0  # the regular end, before the first round
        if given.command == "reconcile" and not given.list:
            _print_error("interrupted: run it again to settle what is still open")
            return _UNSETTLED
        return interrupted.exit_code
    except (MintedConnectError, OSError) as error:
        _print_error(error)
        return _USAGE if isinstance(error, ConfigurationError | InvalidInput) else _FAILED
    if out.failure is None:
        return code
    _print_error(f"the result could not be shown: {type(out.failure).__name__}")
    return _UNSETTLED if given.command == "reconcile" else _FAILED


def _print_error(line: object) -> None:
    print(f"minted_connect: {line}", file=process.LossyOutput(sys.stderr), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minted_connect", description="Minted Connect SDK")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="buy, sell and deliver gold in an embedded sandbox")
    demo.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    recover = commands.add_parser(
        "reconcile",
        help="settle purchases with an unknown outcome",
        description="Settle purchases with an unknown outcome: read orders and baskets, and write the outcome of each "
        "into the journal. Nothing is bought.",
        epilog="Server and credentials: MINTED_CONNECT_BASE_URL (default: staging), MINTED_CONNECT_USERNAME and "
        "MINTED_CONNECT_PASSWORD. Account in the journal: MINTED_CONNECT_JOURNAL_ACCOUNT, if set. Exit code: 0 no "
        "selected outcome is unknown, 75 an outcome is still unknown or the result could not be shown, 1 error, 2 "
        "wrong usage.",
    )
    recover.add_argument(
        "--journal", metavar="FILE", help="file or database URL of the journal (default: MINTED_CONNECT_JOURNAL)"
    )
    recover.add_argument("--intent", metavar="ID", action="append", help="process only this intent; may be repeated")
    recover.add_argument(
        "--decide",
        choices=("confirmed", "rejected", "not_executed"),
        help="write this outcome of one --intent into the journal; sends no request",
    )
    recover.add_argument(
        "--list", action="store_true", help="list open intents only; sends no request and changes nothing"
    )
    recover.add_argument(
        "--all-accounts",
        action="store_true",
        help="also list open intents of other accounts, which are never read back",
    )
    recover.add_argument(
        "--fence",
        action="store_true",
        help="clear baskets that are still open, so that a request in flight has nothing to complete",
    )
    recover.add_argument(
        "--seconds",
        type=float,
        default=120.0,
        help="maximum time to read back the intents, in seconds (default: %(default)g)",
    )
    recover.add_argument(
        "--watch",
        action="store_true",
        help="settle purchases until SIGINT or SIGTERM, which end it with exit code 0; one process per journal is "
        "active, the others stand by",
    )
    recover.add_argument(
        "--interval",
        type=float,
        default=60.0,
        help="with --watch: time between two rounds, in seconds (default: %(default)g)",
    )
    recover.add_argument(
        "--lease",
        type=float,
        default=60.0,
        help="with --watch: time after which another process takes over if this one was killed, in seconds "
        "(default: %(default)g)",
    )
    recover.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    return parser


def _command(given: argparse.Namespace, out: TextIO) -> Coroutine[Any, Any, int | None]:
    if given.command == "demo":
        from minted_connect.commands import demo  # noqa: PLC0415 - as above

        return demo.run(out, as_json=given.json)
    if given.watch:
        from minted_connect.commands import watch  # noqa: PLC0415 - as above

        watch.check_options(given.intent, given.decide, only_list=given.list, all_accounts=given.all_accounts)
        return watch.run(
            given.journal,
            interval=given.interval,
            fence=given.fence,
            seconds=given.seconds,
            lease=given.lease,
            as_json=given.json,
            out=out,
        )
    from minted_connect.commands import reconcile  # noqa: PLC0415 - as above

    return reconcile.run(
        given.journal,
        intents=given.intent,
        decide=given.decide,
        only_list=given.list,
        all_accounts=given.all_accounts,
        fence=given.fence,
        seconds=given.seconds,
        as_json=given.json,
        out=out,
    )


if __name__ == "__main__":
    process.prepare_process()
    sys.exit(main())
