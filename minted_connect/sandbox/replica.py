"""A read replica of the shop: the same state, some seconds behind."""

import threading
from collections import deque
from collections.abc import Sequence

from attrs import frozen

from .entities import Basket, Entity, copy_of
from .state import SECOND, ShopState


@frozen
class _Change:
    moment: int
    saved: tuple[Entity, ...]
    dropped: tuple[str, ...]


class Replica(ShopState):
    """The shop as it was `Rules.reads_lag` seconds ago, for reads: every change reaches it that much later.

    It holds copies, so that no read changes the primary, and no change of the primary is seen early.
    """

    def __init__(self, primary: ShopState) -> None:
        super().__init__(primary.rules, primary.products, primary.time, primary.walk)
        self._lag = round(self.rules.reads_lag * SECOND)
        self._changes: deque[_Change] = deque()
        self._lock = threading.Lock()

    def record(self, saved: Sequence[Entity], dropped: Sequence[str] = (), *, at_once: bool = False) -> None:
        """Take over a committed change of the primary once it is old enough.

        Args:
            saved: entities after the change.
            dropped: tokens of baskets that are no longer open.
            at_once: apply it now, as what a state file holds.
        """
        change = _Change(self.now() - (self._lag if at_once else 0), tuple(map(copy_of, saved)), tuple(dropped))
        with self._lock:
            self._changes.append(change)
            self._apply()

    def catch_up(self) -> None:
        """Apply every change that is old enough."""
        with self._lock:
            self._apply()

    def moment(self) -> int:
        """Return the moment of the primary that is read here, microseconds since 1970."""
        # A state file is read whole: at the start, nothing in it is behind.
        return max(self.now() - self._lag, self.time.began)

    def _apply(self) -> None:
        latest = self.now() - self._lag
        while self._changes and self._changes[0].moment <= latest:
            change = self._changes.popleft()
            for token in change.dropped:
                self.drop(token)
            for entity in change.saved:
                if isinstance(entity, Basket):
                    entity.refreshed = False  # this flag belongs to the response of the primary
                self.put(entity)
