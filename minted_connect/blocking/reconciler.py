"""The blocking reconciler, which runs on the client's background thread."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from minted_connect.blocking.lift import Facade, close_on_exit
from minted_connect.completion.reconciler import Reconciler, ReconcilerStatus
from minted_connect.errors import ClientClosedError

__all__ = ["BlockingReconciler"]


class BlockingReconciler(Facade[Reconciler]):
    """Blocking twin of `Reconciler`: `with complete.reconciler() as reconciler: ...`.

    The client's background thread reconciles, and calls the hooks, which therefore cannot use the client. Any thread
    may close the reconciler.
    """

    @property
    def is_active(self) -> bool:
        """Whether this process settles the open intents; otherwise another one does, or the last round failed."""
        return self._inner.is_active

    @property
    def status(self) -> ReconcilerStatus:
        """State, counts and last round at this moment."""
        return self._inner.status

    def close(self) -> None:
        """End the round in progress and release the lease, so that another process takes over. Idempotent."""
        with contextlib.suppress(ClientClosedError):
            self._run(self._inner.aclose())

    def __enter__(self) -> Self:
        """Start to reconcile; does not wait for the first round.

        Raises:
            ClientClosedError: if the reconciler was opened before, or if the client is closed or was forked.
        """
        self._run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_on_exit(self.close, error)
