"""The registry of faults: a fault is one function, and its keyword-only defaults are its arguments."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from attrs import field, frozen

from .fault_arguments import Argument, Choice, arguments_of

_Function = TypeVar("_Function", bound=Callable[..., Any])

Landing = Callable[[Mapping[str, Any]], float | None]
"""Returns how many seconds after its acceptance a request is executed, from a fault's arguments; None: unbounded."""


@frozen(eq=False)
class FaultType:
    """One kind of fault.

    Attributes:
        kind: its name.
        summary: what happens, in one sentence.
        function: implements it.
        arguments: its own arguments, by name.
        landing: returns the delay of the execution from the arguments; None if this kind never delays it.
        is_edit: the function edits a `Response`; else it takes the `FaultContext` and responds itself.
    """

    kind: str
    summary: str
    function: Callable[..., Any] = field(repr=False)
    arguments: Mapping[str, Argument] = field(repr=False)
    landing: Landing | None = field(default=None, repr=False)
    is_edit: bool = False

    def check(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return all arguments as the function takes them.

        Raises:
            TypeError: if an argument is unknown or has a wrong type.
            ValueError: if an argument is out of bounds.
        """
        if unknown := set(given) - set(self.arguments):
            raise TypeError(f"{self.kind} takes no {', '.join(sorted(unknown))}")
        # The defaults too: `drop_field` has to be given its field.
        return {
            name: argument.check(given.get(name, argument.default), self.kind)
            for name, argument in self.arguments.items()
        }


REGISTRY: dict[str, FaultType] = {}
"""Kind -> the fault, in the order of the modules that define them."""


@overload
def fault(function: _Function, /) -> _Function: ...
@overload
def fault(*, landing: Landing | None = None, is_edit: bool = False) -> Callable[[_Function], _Function]: ...
def fault(
    function: _Function | None = None, /, *, landing: Landing | None = None, is_edit: bool = False
) -> _Function | Callable[[_Function], _Function]:
    """Register a function as the fault of its name.

    Its keyword-only parameters are the fault's arguments: the annotations their types and bounds, the defaults what
    they are when left out. The first line of its docstring is the fault's description.

    Args:
        function: takes a `FaultContext` and returns the response; an edit takes and returns a `Response`.
        landing: returns how much later the fault has a request executed.
        is_edit: the function only changes the response of a request that is executed.
    """

    def register(function: _Function) -> _Function:
        kind = function.__name__
        if kind in REGISTRY:
            raise ValueError(f"there is a fault {kind!r} already")
        summary = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
        REGISTRY[kind] = FaultType(kind, summary, function, arguments_of(function), landing, is_edit)
        return function

    return register if function is None else register(function)


def faults_table() -> str:
    """Return the table of all faults as Markdown, for the documentation: one row for each kind, ending in a newline."""
    rows = ["| kind | what the sandbox does | its own arguments |", "|---|---|---|"]
    for one in REGISTRY.values():
        arguments = ", ".join(_shown(argument) for argument in one.arguments.values())
        rows.append(f"| `{one.kind}` | {one.summary} | {arguments}{' ' if arguments else ''}|")
    return "\n".join(rows) + "\n"


def _shown(argument: Argument) -> str:
    default = argument.default
    shown = f'"{default}"' if isinstance(default, str) else repr(default)
    choices = [value for rule in argument.rules if isinstance(rule, Choice) for value in rule.values]
    others = [f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`" for value in choices if value != default]
    return f"`{argument.name}={shown}`" + (f" or {', '.join(others)}" if others else "")
