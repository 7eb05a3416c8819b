"""Wrong usage: one line on standard error, where Typer draws a box."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

__all__ = ["Commands"]

# Typer has a click of its own, or that of its environment, by its version: this is the class of either.
_UsageError: Any = typer.BadParameter.__base__
_HELP_WAS_SHOWN: Final = "NoArgsIsHelpError"
_FAILED: Final = 1


class Commands(TyperGroup):
    """The commands of `minted`."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command and exit."""
        code: Any
        try:
            code = super().main(*args, **{**settings, "standalone_mode": False})
        except _UsageError as caught:
            error: Any = caught
            if type(error).__name__ != _HELP_WAS_SHOWN:
                sys.stderr.write(f"minted: {_line(error)}\n")
            code = error.exit_code
        except typer.Abort:
            code = _FAILED
        sys.exit(code)


def _line(error: Any) -> str:
    from minted_connect.cli.output import clean  # noqa: PLC0415 - `--help` needs none of it

    said = clean(" ".join(error.format_message().split()))
    return f"{said.removesuffix('.')}; see {error.ctx.command_path} --help" if error.ctx else said
