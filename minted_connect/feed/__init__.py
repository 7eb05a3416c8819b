"""Prices over time: takes fetch callables, knows no resource and no client."""

from minted_connect.feed.board import Subscription
from minted_connect.feed.candles import Candle, ohlc
from minted_connect.feed.feed import BREAKER, RateFeed
from minted_connect.feed.tick import Tick

__all__ = ["BREAKER", "Candle", "RateFeed", "Subscription", "Tick", "ohlc"]
