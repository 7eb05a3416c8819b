"""Every text that an error may expose in logs, tracebacks and pickles, for tests that search these for secrets."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path

import minted_connect
from minted_connect import OutcomeUnknown


def texts_of(error: BaseException) -> list[str]:
    """Return all texts of an error and of its causes and contexts, also those that a traceback omits."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is not None and current not in seen:
            seen.append(current)
            todo += [current.__cause__, current.__context__]
    texts = [f"{current} {current!r} {getattr(current, '__notes__', '')}" for current in seen]
    texts += [f"{current.evidence} {current.intent!r}" for current in seen if isinstance(current, OutcomeUnknown)]
    return [*texts, _pickle_text(error), *traceback.format_exception(error)]


def _pickle_text(error: BaseException) -> str:
    """Return the pickled error as text, without the data that it carries on purpose: the intent, the server's texts."""
    stripped = copy.copy(error)
    for name, empty in (("message", ""), ("fields", {}), ("request_id", None)):
        if hasattr(stripped, name):
            setattr(stripped, name, empty)
            stripped.args = stripped.args[:1]
    text = pickle.dumps(stripped).decode("utf-8", "replace")
    for value in (
        (stripped.intent.external_customer_id, stripped.intent.cart_token) if hasattr(stripped, "intent") else ()
    ):
        text = text.replace(value, "")
    return text


def local_variables(error: BaseException) -> str:
    """Return the local variables of every frame of the library, as error reporters send them."""
    package, frames = str(Path(minted_connect.__file__).parent), []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(package):
            frames.append(f"{frame.f_code.co_qualname}: {frame.f_locals!r}")
    frames += [local_variables(cause) for cause in (error.__cause__, error.__context__) if cause is not None]
    return "\n".join(frames)
