"""The registry of faults: a fault is one function, and its keyword-only parameters are its arguments.

To add a fault, write a function with `@fault` in `fault_effects` or `fault_response_edits`, and add its name to
`FaultKind` in `fault_handle`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from attrs import field, frozen

from .fault_arguments import Argument, Choice, arguments_of

_Function = TypeVar("_Function", bound=Callable[..., Any])

ExecutionDelay = Callable[[Mapping[str, Any]], float | None]
"""Takes a fault's arguments; returns the maximum delay of the execution in seconds, or None if unbounded."""


@frozen(eq=False)
class FaultType:
    """One kind of fault.

    Attributes:
        kind: the name.
        summary: the effect, in one sentence.
        function: the implementation.
        arguments: the arguments, by name.
        execution_delay: computes the delay of the execution; None if this kind does not delay it.
        is_edit: whether the function edits a `Response`; else it takes a `FaultContext` and responds itself.
    """

    kind: str
    summary: str
    function: Callable[..., Any] = field(repr=False)
    arguments: Mapping[str, Argument] = field(repr=False)
    execution_delay: ExecutionDelay | None = field(default=None, repr=False)
    is_edit: bool = False

    def check(self, given: Mapping[str, object]) -> dict[str, object]:
        """Validate arguments; return all of them, converted, with defaults for those that are missing.

        Raises:
            TypeError: if an argument is unknown or has a wrong type.
            ValueError: if an argument is out of bounds.
        """
        if unknown := set(given) - set(self.arguments):
            raise TypeError(f"{self.kind} takes no {', '.join(sorted(unknown))}")
        # Defaults are checked too: that of `drop_field` is invalid, which makes the argument required.
        return {
            name: argument.check(given.get(name, argument.default), self.kind)
            for name, argument in self.arguments.items()
        }


REGISTRY: dict[str, FaultType] = {}
"""Kind -> fault, in the order of definition."""


@overload
def fault(function: _Function, /) -> _Function: ...
@overload
def fault(
    *, execution_delay: ExecutionDelay | None = None, is_edit: bool = False
) -> Callable[[_Function], _Function]: ...
def fault(
    function: _Function | None = None, /, *, execution_delay: ExecutionDelay | None = None, is_edit: bool = False
) -> _Function | Callable[[_Function], _Function]:
    """Register a function as the fault of its name.

    Its keyword-only parameters are the fault's arguments: the annotations give types and bounds, the defaults apply to
    missing arguments. The first line of its docstring is the fault's description.

    Args:
        function: takes a `FaultContext` and returns the response; an edit takes and returns a `Response`.
        execution_delay: computes how much later the request is executed, from the arguments.
        is_edit: whether the function only edits the response of a request that is executed.
    """

    def register(function: _Function) -> _Function:
        kind = function.__name__
        if kind in REGISTRY:
            raise ValueError(f"there is a fault {kind!r} already")
        summary = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
        REGISTRY[kind] = FaultType(kind, summary, function, arguments_of(function), execution_delay, is_edit)
        return function

    return register if function is None else register(function)


def faults_table() -> str:
    """Return the table of all faults as Markdown, one row for each kind, ending in a newline."""
    rows = ["| kind | effect | arguments and defaults |", "|---|---|---|"]
    for one in REGISTRY.values():
        arguments = ", ".join(_format_argument(argument) for argument in one.arguments.values())
        rows.append(f"| `{one.kind}` | {one.summary} | {arguments}{' ' if arguments else ''}|")
    return "\n".join(rows) + "\n"


def _format_argument(argument: Argument) -> str:
    default = argument.default
    shown = f'"{default}"' if isinstance(default, str) else repr(default)
    choices = [value for rule in argument.rules if isinstance(rule, Choice) for value in rule.values]
    others = [f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`" for value in choices if value != default]
    return f"`{argument.name}={shown}`" + (f" or {', '.join(others)}" if others else "")
