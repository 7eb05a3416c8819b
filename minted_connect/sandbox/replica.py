"""A read replica of the shop: the same state, delayed."""

import threading
from collections import deque
from collections.abc import Sequence

from attrs import frozen

from .entities import Basket, Entity, copy_entity
from .state import SECOND, ShopState


@frozen
class _Change:
    moment: int
    saved: tuple[Entity, ...]
    dropped: tuple[str, ...]


class Replica(ShopState):
    """The shop as it was `Rules.reads_lag` seconds ago.

    It holds copies, so that reads do not change the primary, and changes of the primary do not appear early.
    """

    def __init__(self, primary: ShopState) -> None:
        super().__init__(primary.rules, primary.products, primary.time, primary.walk)
        self._lag = round(self.rules.reads_lag * SECOND)
        self._changes: deque[_Change] = deque()
        self._lock = threading.Lock()

    def record(self, saved: Sequence[Entity], dropped: Sequence[str] = (), *, at_once: bool = False) -> None:
        """Record a change of the primary, to be applied after the lag.

        Args:
            saved: entities after the change.
            dropped: tokens of baskets that are no longer open.
            at_once: apply it now, as for the entities of a state file.
        """
        change = _Change(self.now() - (self._lag if at_once else 0), tuple(map(copy_entity, saved)), tuple(dropped))
        with self._lock:
            self._changes.append(change)
            self._apply()

    def catch_up(self) -> None:
        """Apply the changes that are older than the lag."""
        with self._lock:
            self._apply()

    def moment(self) -> int:
        """Return the moment of the primary that this state shows."""
        # The state file is applied at once: at the start the replica is not behind.
        return max(self.now() - self._lag, self.time.began)

    def _apply(self) -> None:
        latest = self.now() - self._lag
        while self._changes and self._changes[0].moment <= latest:
            change = self._changes.popleft()
            for token in change.dropped:
                self.drop(token)
            for entity in change.saved:
                if isinstance(entity, Basket):
                    entity.refreshed = False  # the flag concerns the response of the primary
                self.put(entity)
