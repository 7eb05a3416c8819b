"""What an error shows of itself, to be searched for what it must not show."""

from __future__ import annotations

import traceback


def texts_of(error: BaseException) -> list[str]:
    """Everything an error shows of itself and of what hangs on it, also what a traceback leaves out."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
    texts = [f"{one} {one!r} {getattr(one, '__notes__', '')} {getattr(one, 'evidence', '')}" for one in seen]
    return [*texts, *traceback.format_exception(error)]


def local_variables(error: BaseException) -> str:
    """A traceback with the variables of every frame, as error reporters send it."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
