"""The command line `minted` (extra `cli`): everything the SDK does, from a shell.

`app` puts the commands together, `command` runs one, `process` handles signals and standard streams, `profiles` finds
server and credentials, `show` prints, `outcome` tells how it ended. Nothing of the SDK is imported before a command
runs, so that `minted --help` is quick.
"""

from __future__ import annotations

import sys

from minted_connect.cli.process import flush_streams, prepare_process

__all__ = ["main"]

_USAGE = 2


def main() -> int:
    """Run the command line; without its extra, say which one that is."""
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
