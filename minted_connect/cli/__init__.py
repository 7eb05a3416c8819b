"""The command line `minted` (extra `cli`): everything the SDK does, from a shell.

`app` puts the commands together, `command` runs one, `profiles` finds server and credentials, `show` prints, `outcome`
tells how it ended. Nothing of the SDK is imported before a command runs, so that `minted --help` is quick.
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]

_USAGE = 2


def main() -> int:
    """Run the command line; without its extra, say which one that is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding does not have must not end a command that has bought something.
            stream.reconfigure(errors="backslashreplace")
    try:
        from minted_connect.cli.app import app  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.stderr.write('minted: the command line needs its extra: pip install "minted-connect[cli]"\n')
        return _USAGE
    app()
    return 0
