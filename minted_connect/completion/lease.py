"""The lease of a background reconciler: one process at a time settles the open intents of an account in a journal.

The lease is a claim of the journal with a reserved reference. It expires in real time, by the clock of the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final, NoReturn

from minted_connect.clock import SYSTEM_CLOCK, monotonic
from minted_connect.core.cancellation import shielded
from minted_connect.errors import AlreadyInFlight, JournalError
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.models import OrderKind

__all__ = ["RESERVED", "Lease", "LeaseLost"]

_logger = logging.getLogger("minted_connect.completion")

RESERVED: Final = "\x1freconciler"
"""Reference and customer id of the claim. Those of purchases are printable, so that no purchase can have this one."""

_RENEWALS: Final = 3
"""Number of renewals within the duration of a lease."""
_MIN_WAIT: Final = 0.02
"""Seconds before the next try to acquire a lease that is about to expire."""


class LeaseLost(Exception):
    """The lease has expired, or another process has acquired it."""


class Lease:
    """The lease of one reconciler.

    Args:
        journal: Stores the lease.
        key: The account, with `RESERVED` as reference.
        seconds: Duration. If the lease is not renewed, another process can acquire it afterwards.
        now: Returns the time of day.
    """

    def __init__(self, journal: ClaimJournal, key: ReferenceKey, seconds: float, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._key = key
        self._seconds = seconds
        self._now = now
        self._pid = os.getpid()
        self._claim: Claim | None = None
        self._expires_at = 0.0
        """Monotonic time before which the database cannot let the lease expire."""

    async def acquire(self) -> float:
        """Try to acquire the lease; return 0, or in how many seconds to try again if another process has it.

        Raises:
            JournalError: if the journal cannot be read or written.
        """
        held = await self._journal.find_claim(self._key)
        if held is not None and held.seconds > 0:
            return max(_MIN_WAIT, min(held.seconds, self._seconds / _RENEWALS))
        claim = Claim(
            self._key,
            RESERVED,
            OrderKind.BUY,
            terms="",
            owner=str(uuid.uuid4()),
            seconds=self._seconds,
            grace=0.0,
            saw_basket=False,
            cart_token=None,
            created_at=self._now(),
        )
        try:
            await shielded(self._store(claim))
        except AlreadyInFlight:
            return self._seconds / _RENEWALS
        except asyncio.CancelledError:
            await self.release()
            raise
        return 0.0

    async def _store(self, claim: Claim) -> None:
        sent_at = monotonic()
        self._claim = await self._journal.claim(claim, known=())
        self._expires_at = sent_at + self._seconds

    async def renew(self) -> None:
        """Extend the lease from now.

        Raises:
            LeaseLost: if it has expired, another process has acquired it, or this process is a fork of the one that
                has it.
            JournalError: if the journal cannot be written.
        """
        claim = self._claim
        if claim is None or os.getpid() != self._pid:
            raise LeaseLost
        sent_at = monotonic()
        try:
            await shielded(self._journal.renew_claim(claim))
        except AlreadyInFlight:
            raise LeaseLost from None
        self._expires_at = sent_at + self._seconds

    async def keep(self) -> NoReturn:
        """Renew the lease until cancelled. Failures of the journal are ignored until the lease may have expired.

        Raises:
            LeaseLost: as `renew`.
            JournalError: if the lease could not be renewed in time.
        """
        while True:
            await SYSTEM_CLOCK.sleep(self._seconds / _RENEWALS)
            try:
                await self.renew()
            except JournalError:
                if monotonic() >= self._expires_at:
                    raise

    async def release(self) -> None:
        """End the lease, unless it was lost. If the journal cannot be written, the lease expires by itself."""
        claim, self._claim = self._claim, None
        if claim is None or os.getpid() != self._pid:
            return
        try:
            await shielded(self._journal.release_claim(claim, grace=0.0))
        except JournalError as error:
            _logger.warning("the lease of the reconciler could not be released, and expires by itself: %s", error)
