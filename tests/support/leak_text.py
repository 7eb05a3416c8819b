"""What an error shows of itself, to be searched for what it must not show."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path

import minted_connect
from minted_connect import OutcomeUnknown


def texts_of(error: BaseException) -> list[str]:
    """Everything an error shows of itself and of what hangs on it, also what a traceback leaves out."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in seen:
            seen.append(one)
            todo += [one.__cause__, one.__context__]
    texts = [f"{one} {one!r} {getattr(one, '__notes__', '')}" for one in seen]
    texts += [f"{one.evidence} {one.intent!r}" for one in seen if isinstance(one, OutcomeUnknown)]
    return [*texts, _pickled(error), *traceback.format_exception(error)]


def _pickled(error: BaseException) -> str:
    """What an error is outside of this process, but for what it is there to carry: an intent, the server's words."""
    bare = copy.copy(error)
    for words, none in (("message", ""), ("fields", {}), ("request_id", None)):
        if hasattr(bare, words):
            setattr(bare, words, none)
            bare.args = bare.args[:1]
    text = pickle.dumps(bare).decode("utf-8", "replace")
    for carried in (bare.intent.external_customer_id, bare.intent.cart_token) if hasattr(bare, "intent") else ():
        text = text.replace(carried, "")
    return text


def local_variables(error: BaseException) -> str:
    """The variables of every frame of this library, as error reporters send them."""
    ours, shown = str(Path(minted_connect.__file__).parent), []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(ours):
            shown.append(f"{frame.f_code.co_qualname}: {frame.f_locals!r}")
    shown += [local_variables(cause) for cause in (error.__cause__, error.__context__) if cause is not None]
    return "\n".join(shown)
