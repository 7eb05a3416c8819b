"""Registers coroutine functions as commands, with the shared options, and runs them."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from minted_connect.cli.output import Output
    from minted_connect.client import AsyncMintedConnect

__all__ = ["Context", "Day", "End", "Start", "check_may_change", "command", "load_client_settings", "run"]

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")]
"""An option that takes a date."""
Start = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="First day.")]
End = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="Last day.")]

_PANEL: Final = "Server and account"


def _text_option(help_: str) -> tuple[Any, None]:
    return Annotated[str | None, typer.Option(help=help_, rich_help_panel=_PANEL)], None


def _flag(name: str, help_: str) -> tuple[Any, bool]:
    return Annotated[bool, typer.Option(name, help=help_, rich_help_panel=_PANEL)], False


def _complete_profile(incomplete: str) -> list[str]:
    from minted_connect.cli.profiles import profile_names  # noqa: PLC0415 - `--help` does not need it

    return [name for name in profile_names() if name.startswith(incomplete)]


_SHARED: Final[Mapping[str, tuple[Any, Any]]] = {
    "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON, with amounts as strings.")], False),
    "profile": (
        Annotated[
            str | None,
            typer.Option(
                help="Profile of the configuration file.", rich_help_panel=_PANEL, autocompletion=_complete_profile
            ),
        ],
        None,
    ),
    "base_url": _text_option("URL of the server. Defaults to the vendor's staging server."),
    "username": _text_option("User name of the partner account."),
    "password_file": _text_option("File that contains the password."),
    "password_stdin": _flag("--password-stdin", "Read the password from standard input."),
    "keyring": _flag("--keyring", "Read the password from the system keyring, if no other is set."),
    "language": _text_option("Language of product names and server messages: tr or en."),
    "journal": _text_option("File or database URL of the journal of purchases."),
}


class Context:
    """State of one command, passed to its function.

    Args:
        settings: Arguments of `AsyncMintedConnect`.
        common: The shared options as given.
        out: Prints results and messages.
        changes: Initial value of `may_have_changed`.
    """

    def __init__(
        self, settings: dict[str, Any], common: Mapping[str, Any], out: Output, *, changes: bool = False
    ) -> None:
        self.settings = settings
        self.common = common
        self.out = out
        self.may_have_changed = changes
        """Whether the command may have changed data, so that a failure can leave the outcome unknown."""
        self.may_leave_open = False
        """Whether an interruption leaves intents open, so that the command should be run again."""
        self.has_unknown_outcome = False
        """Whether the outcome of an earlier purchase of this command is unknown."""
        self.exit_code: int | None = None
        """Exit code of the function; None until it has returned."""
        self._minted: AsyncMintedConnect | None = None

    @property
    def minted(self) -> AsyncMintedConnect:
        """The client, in a command that was registered with `client=True`."""
        assert self._minted is not None
        return self._minted

    def describe_error(self, error: BaseException) -> list[str]:
        """Return the lines that describe an error and the next step."""
        from minted_connect.cli.error_text import describe_error  # noqa: PLC0415 - `--help` does not need it

        return describe_error(error, self.reconcile_command)

    def print_error(self, error: BaseException) -> None:
        """Print the lines that describe an error and the next step."""
        from minted_connect.cli.output import format_cell  # noqa: PLC0415 - `--help` does not need it

        for line in self.describe_error(error):
            self.out.print_message(f"minted: {format_cell(line)}")

    def reconcile_command(self, intent_id: str) -> str:
        """Return the command that finds out the outcome of an intent."""
        from minted_connect.cli.hints import reconcile_command  # noqa: PLC0415 - `--help` does not need it

        return reconcile_command(self.settings, self.common, intent_id)

    async def run(self, body: Callable[[Context], Awaitable[int | None]], *, client: bool) -> int:
        """Run the function of a command, with an open client if `client` is true; return its exit code."""
        if not client:
            self.exit_code = await body(self) or 0
            return self.exit_code
        import attrs  # noqa: PLC0415 - `--help` must load neither attrs nor aiohttp

        from minted_connect.cli.wait_notice import WaitNotice  # noqa: PLC0415
        from minted_connect.client import AsyncMintedConnect  # noqa: PLC0415
        from minted_connect.config import Options, Timeouts  # noqa: PLC0415

        timeouts = Timeouts()
        notice = WaitNotice(self.out, timeouts)
        options = attrs.evolve(self.settings.get("options") or Options(), on_attempt=notice.on_attempt)
        settings: dict[str, Any] = {**self.settings, "options": options, "timeouts": timeouts}
        async with AsyncMintedConnect(**settings) as minted:
            self._minted = minted
            try:
                self.exit_code = await body(self) or 0
            finally:
                notice.cancel()
        return self.exit_code


Body = Callable[..., Awaitable[int | None]]
LoadSettings = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
_B = TypeVar("_B", bound=Body)


def load_client_settings(common: Mapping[str, Any], _given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `AsyncMintedConnect` from the shared options."""
    from minted_connect.cli.profiles import load_settings  # noqa: PLC0415 - `--help` does not need it

    return load_settings(common)


def command(
    app: typer.Typer,
    name: str | None,
    *,
    changes: bool = False,
    client: bool = True,
    load_settings: LoadSettings = load_client_settings,
    fields: Mapping[str, Any] = MappingProxyType({}),
    without: Collection[str] = (),
    **typer_settings: Any,
) -> Callable[[_B], _B]:
    """Register a coroutine function, which takes a `Context` and its own parameters, as a command of `app`.

    Args:
        app: The Typer application.
        name: Name of the command; None registers the function as what `app` does without a subcommand.
        changes: Whether the command changes data, so that a failure after sending exits with "outcome unknown".
        client: Whether the function needs a client.
        load_settings: Returns the client's arguments. Runs before the event loop starts, because it may prompt for the
            password.
        fields: Further optional options, by name; the function receives them in its `**fields`.
        without: Names of shared options that the command does not have, or has in another form.
        typer_settings: Passed to `Typer.command` or `Typer.callback`.
    """

    def register(body: _B) -> _B:
        signature = inspect.signature(body, eval_str=True)
        _, *own = signature.parameters.values()
        shared = {key: option for key, option in _SHARED.items() if key not in without}
        options = {**{key: (annotation, None) for key, annotation in fields.items()}, **shared}
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            parameter.replace(kind=keyword) for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        parameters += [
            inspect.Parameter(key, keyword, default=default, annotation=annotation)
            for key, (annotation, default) in options.items()
        ]
        if name is None:
            parameters.append(inspect.Parameter("_ctx", keyword, annotation=typer.Context))

        def call(**given: Any) -> None:
            if name is None and given.pop("_ctx").invoked_subcommand is not None:
                return
            common = {key: given.pop(key) if key in shared else None for key in _SHARED}
            raise typer.Exit(run(body, given, common, changes=changes, client=client, load_settings=load_settings))

        call.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__doc__, call.__name__ = body.__doc__, body.__name__
        if name is None:
            app.callback(invoke_without_command=True, **typer_settings)(call)
        else:
            app.command(name, **typer_settings)(call)
        return body

    return register


def run(
    body: Body,
    given: Mapping[str, Any],
    common: Mapping[str, Any],
    *,
    changes: bool,
    client: bool,
    load_settings: LoadSettings,
) -> int:
    """Run a command, print its errors on standard error, and return its exit code."""
    from minted_connect.cli import error_text, exit_codes, output, process  # noqa: PLC0415 - `--help` does not need them
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415

    out = output.Output(as_json=common["as_json"])
    context: Context | None = None

    def hint(intent_id: str) -> str:
        return "minted reconcile" if context is None else context.reconcile_command(intent_id)

    try:
        settings = load_settings(common, given)
        if changes and not given.get("dry_run"):
            check_may_change(settings)
        context = created = Context(settings, common, out, changes=changes)
        return process.run_interruptible(lambda: created.run(lambda cli: body(cli, **given), client=client))
    except process.Interrupted as interrupted:
        if context is not None and context.exit_code is not None:
            return context.exit_code  # only the closing of the client was interrupted
        lines = error_text.describe_interruption(interrupted.__cause__, hint)
        for line in lines:
            out.print_message(f"minted: {line}")
        if context is not None and context.may_leave_open:
            out.print_message("minted: interrupted: run it again to settle what is still open")
            return exit_codes.ExitCode.UNKNOWN
        is_unknown = context is not None and context.has_unknown_outcome
        return exit_codes.ExitCode.UNKNOWN if (lines and changes) or is_unknown else interrupted.exit_code
    except KeyboardInterrupt:  # at the password prompt
        out.print_message("\nminted: interrupted: nothing was sent")
        return exit_codes.ExitCode.INTERRUPTED
    except BrokenPipeError as error:
        process.discard_output(sys.stdout)
        if context is not None and context.may_have_changed:
            out.print_message("minted: the result could not be printed: check it before you repeat the command")
        return exit_codes.exit_code_for(error, changes=context is not None and context.may_have_changed)
    except (MintedConnectError, OSError) as error:
        for line in error_text.describe_error(error, hint):
            out.print_message(f"minted: {output.format_cell(line)}")
        return exit_codes.exit_code_for(error, changes=context is not None and context.may_have_changed)
    except Exception:
        if context is None or not context.may_have_changed:
            raise
        out.print_message(traceback.format_exc())
        return exit_codes.ExitCode.UNKNOWN


def check_may_change(settings: Mapping[str, Any]) -> None:
    """Check that the profile may change something.

    Raises:
        ConfigurationError: if it has `read_only`.
    """
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415 - `--help` does not need it

    if "options" in settings and settings["options"].read_only:
        raise ConfigurationError("profile: read_only is set, so this command is refused: nothing was sent")
