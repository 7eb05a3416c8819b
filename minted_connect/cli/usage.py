"""Prints usage errors as one line on standard error, instead of the box that Typer draws."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

__all__ = ["OneLineErrorGroup"]

# Typer bundles click or imports the installed one, depending on its version: this is the class in either case.
_UsageError: Any = typer.BadParameter.__base__
_HELP_WAS_SHOWN: Final = "NoArgsIsHelpError"
_FAILED: Final = 1


class OneLineErrorGroup(TyperGroup):
    """The command group `minted`."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command and exit."""
        code: Any
        try:
            code = super().main(*args, **{**settings, "standalone_mode": False})
        except _UsageError as caught:
            error: Any = caught
            if type(error).__name__ != _HELP_WAS_SHOWN:
                sys.stderr.write(f"minted: {_format_error(error)}\n")
            code = error.exit_code
        except typer.Abort:
            code = _FAILED
        sys.exit(code)


def _format_error(error: Any) -> str:
    from minted_connect.cli.output import format_cell  # noqa: PLC0415 - `--help` does not need it

    message = format_cell(" ".join(error.format_message().split()))
    return f"{message.removesuffix('.')}; see {error.ctx.command_path} --help" if error.ctx else message
