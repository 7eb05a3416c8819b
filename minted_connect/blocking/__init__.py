"""The blocking twin: the same API for callers without an event loop."""

from minted_connect.blocking.client import BlockingRateFeed, BlockingSubscription, MintedConnect

__all__ = ["BlockingRateFeed", "BlockingSubscription", "MintedConnect"]
