"""Prices over time: takes fetch callables, knows no resource and no client."""

from minted_connect.feed.board import Subscription
from minted_connect.feed.candles import Candle, ohlc
from minted_connect.feed.feed import RateFeed
from minted_connect.feed.fleet import Fleet, Member
from minted_connect.feed.poller import Poller
from minted_connect.feed.recording import record
from minted_connect.feed.sinks import CsvSink, JsonLinesSink, Sink
from minted_connect.feed.tick import Tick

__all__ = [
    "Candle",
    "CsvSink",
    "Fleet",
    "JsonLinesSink",
    "Member",
    "Poller",
    "RateFeed",
    "Sink",
    "Subscription",
    "Tick",
    "ohlc",
    "record",
]
