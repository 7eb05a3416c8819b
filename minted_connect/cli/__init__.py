"""The command line `minted` (extra `cli`).

`app` assembles the commands, `command` runs one, `process` handles signals and standard streams, `profiles` loads
server and credentials, `output` prints, `exit_codes` maps errors to exit codes, and `error_text` describes errors, with
the next step of `hints`. The rest of the package is imported only when a command runs, so that `minted --help` is fast.
"""

from __future__ import annotations

import sys

from minted_connect.cli.process import flush_streams, prepare_process

__all__ = ["main"]

_USAGE = 2


def main() -> int:
    """Run the command line. Without the extra `cli`, print how to install it."""
    prepare_process()
    try:
        from minted_connect.cli.app import app  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.stderr.write('minted: the command line needs its extra: pip install "minted-connect[cli]"\n')
        return _USAGE
    try:
        app()
    finally:
        flush_streams()
    return 0
