"""The blocking client: the same API for programs without an event loop."""

from minted_connect.blocking.client import MintedConnect
from minted_connect.blocking.feed import BlockingRateFeed, BlockingSubscription
from minted_connect.blocking.reconciler import BlockingReconciler

__all__ = ["BlockingRateFeed", "BlockingReconciler", "BlockingSubscription", "MintedConnect"]
