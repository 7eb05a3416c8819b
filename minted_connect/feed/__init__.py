"""Prices over time: takes fetch callables, knows no resource and no client."""

from minted_connect.feed.candles import Candle, ohlc
from minted_connect.feed.feed import RateFeed
from minted_connect.feed.fleet.member import Fleet, FleetMember
from minted_connect.feed.hub import Subscription
from minted_connect.feed.poller import Poller
from minted_connect.feed.sinks.base import Sink
from minted_connect.feed.sinks.lines import CsvSink, JsonLinesSink
from minted_connect.feed.sinks.recording import record
from minted_connect.feed.tick import Tick

__all__ = [
    "Candle",
    "CsvSink",
    "Fleet",
    "FleetMember",
    "JsonLinesSink",
    "Poller",
    "RateFeed",
    "Sink",
    "Subscription",
    "Tick",
    "ohlc",
    "record",
]
