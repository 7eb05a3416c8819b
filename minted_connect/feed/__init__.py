"""Prices over time: takes fetch callables, knows no resource and no client."""

from minted_connect.feed.board import Subscription, Tick
from minted_connect.feed.feed import RateFeed

__all__ = ["RateFeed", "Subscription", "Tick"]
