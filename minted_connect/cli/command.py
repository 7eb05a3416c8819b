"""A command: its own parameters, those that all have, and the way it runs and ends."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from minted_connect.cli.output import Output
    from minted_connect.client import AsyncMintedConnect

__all__ = ["Context", "Day", "command", "prepared", "run"]

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")]
"""An option that is a day."""

_BY_NAME: Final = inspect.Parameter.KEYWORD_ONLY
_PANEL: Final = "Server and account"
_SHARED: Final[Mapping[str, tuple[Any, Any]]] = {
    "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON: money as text, streams a line each.")], False),
    "profile": (
        Annotated[str | None, typer.Option(help="Profile of the configuration file.", rich_help_panel=_PANEL)],
        None,
    ),
    "base_url": (
        Annotated[str | None, typer.Option(help="Server; the vendor's staging if not given.", rich_help_panel=_PANEL)],
        None,
    ),
    "username": (Annotated[str | None, typer.Option(help="User name of the partner.", rich_help_panel=_PANEL)], None),
    "password_file": (
        Annotated[str | None, typer.Option(help="File with the password.", rich_help_panel=_PANEL)],
        None,
    ),
    "password_stdin": (
        Annotated[bool, typer.Option("--password-stdin", help="Read the password there.", rich_help_panel=_PANEL)],
        False,
    ),
    "keyring": (
        Annotated[bool, typer.Option("--keyring", help="Ask the system's keyring for it.", rich_help_panel=_PANEL)],
        False,
    ),
    "language": (
        Annotated[str | None, typer.Option(help="Language of names and messages: tr, en.", rich_help_panel=_PANEL)],
        None,
    ),
    "journal": (
        Annotated[
            str | None,
            typer.Option(help="File or URL that purchases are written into.", rich_help_panel=_PANEL),
        ],
        None,
    ),
}


class Context:
    """What a command has at hand."""

    def __init__(
        self, settings: dict[str, Any], common: Mapping[str, Any], out: Output, *, changes: bool = False
    ) -> None:
        self.settings = settings
        """Arguments of a client."""
        self.common = common
        """The options that all commands share, as given."""
        self.out = out
        self.changes = changes
        """Whether something may have been changed from here on, so that a failure has an unknown exit_codes."""
        self.ends_unknown = False
        """Whether an interruption leaves something open that was open before."""
        self.code: int | None = None
        """The exit code, once the command has done its work."""
        self._minted: AsyncMintedConnect | None = None

    @property
    def minted(self) -> AsyncMintedConnect:
        """The client of a command that has one."""
        assert self._minted is not None
        return self._minted

    async def run(self, body: Callable[[Context], Awaitable[int | None]], *, client: bool) -> int:
        """Run a command, with a client if it wants one, and return its exit code."""
        if not client:
            self.code = await body(self) or 0
            return self.code
        from minted_connect.client import AsyncMintedConnect  # noqa: PLC0415 - `--help` loads no aiohttp

        async with AsyncMintedConnect(**self.settings) as minted:
            self._minted = minted
            self.code = await body(self) or 0
        return self.code


Body = Callable[..., Awaitable[int | None]]
Prepare = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
_B = TypeVar("_B", bound=Body)


def prepared(common: Mapping[str, Any], _given: Mapping[str, Any]) -> dict[str, Any]:
    """Find server and credentials, as most commands want them."""
    from minted_connect.cli.profiles import settings_of  # noqa: PLC0415 - `--help` needs none of it

    return settings_of(common)


def command(
    app: typer.Typer,
    name: str | None,
    *,
    changes: bool = False,
    client: bool = True,
    prepare: Prepare = prepared,
    takes: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Callable[[_B], _B]:
    """Make a coroutine function, which gets a `Context` and its own parameters, a command of `app`.

    Args:
        app: Whose command it is.
        name: How it is called; None = what `app` does by itself.
        changes: Whether it does more than read: a failure after sending then has an unknown exit_codes.
        client: Whether it gets a client.
        prepare: Makes the settings of a client, before the event loop starts: it may have to ask for the password.
        takes: Options that may be left out, by their names: what the function gets as `**fields`.
        settings: Of Typer.
    """

    def register(body: _B) -> _B:
        signature = inspect.signature(body, eval_str=True)
        _, *own = signature.parameters.values()
        options = {**{key: (annotation, None) for key, annotation in takes.items()}, **_SHARED}
        parameters = [one.replace(kind=_BY_NAME) for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += [
            inspect.Parameter(key, _BY_NAME, default=default, annotation=annotation)
            for key, (annotation, default) in options.items()
        ]
        if name is None:
            parameters.append(inspect.Parameter("_ctx", _BY_NAME, annotation=typer.Context))

        def call(**given: Any) -> None:
            if name is None and given.pop("_ctx").invoked_subcommand is not None:
                return
            common = {key: given.pop(key) for key in _SHARED}
            raise typer.Exit(run(body, given, common, changes=changes, client=client, prepare=prepare))

        call.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.__doc__, call.__name__ = body.__doc__, body.__name__
        if name is None:
            app.callback(invoke_without_command=True, **settings)(call)
        else:
            app.command(name, **settings)(call)
        return body

    return register


def run(
    body: Body,
    given: Mapping[str, Any],
    common: Mapping[str, Any],
    *,
    changes: bool,
    client: bool,
    prepare: Prepare,
) -> int:
    """Run a command to its end; return its exit code, having said on standard error what went wrong."""
    from minted_connect.cli import exit_codes, output, process  # noqa: PLC0415 - `--help` needs none of it
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415

    out = output.Output(as_json=common["as_json"])
    context: Context | None = None
    try:
        context = made = Context(prepare(common, given), common, out, changes=changes)
        return process.run_interruptible(lambda: made.run(lambda one: body(one, **given), client=client))
    except process.Interrupted as interrupted:
        if context is not None and context.code is not None:
            return context.code  # it was done, and only closing was interrupted
        lines = exit_codes.describe_interruption(interrupted.__cause__)
        for line in lines:
            out.say(f"minted: {line}")
        if context is not None and context.ends_unknown:
            out.say("minted: interrupted: run it again to settle what is still open")
            return exit_codes.Exit.UNKNOWN
        return exit_codes.Exit.UNKNOWN if lines and changes else interrupted.exit_code
    except KeyboardInterrupt:  # while the password was asked for
        return exit_codes.Exit.INTERRUPTED
    except BrokenPipeError as error:
        process.silence(sys.stdout)
        if context is not None and context.changes:
            out.say("minted: the result could not be shown: look before repeating the command")
        return exit_codes.exit_of(error, changes=context is not None and context.changes)
    except (MintedConnectError, OSError) as error:
        for line in exit_codes.told(error):
            out.say(f"minted: {output.clean(line)}")
        return exit_codes.exit_of(error, changes=context is not None and context.changes)
    except Exception:
        if context is None or not context.changes:
            raise
        out.say(traceback.format_exc())
        return exit_codes.Exit.UNKNOWN
