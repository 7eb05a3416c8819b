"""The blocking twin: the same API for callers without an event loop."""

from minted_connect.blocking.client import BlockingRateFeed, BlockingSubscription, MintedConnect
from minted_connect.blocking.lift import BlockingOutcomeUnknown

__all__ = ["BlockingOutcomeUnknown", "BlockingRateFeed", "BlockingSubscription", "MintedConnect"]
