"""Live prices: the feed, its sinks and its fleet.

This package depends on no resource and no client: the functions that fetch rates and their history are passed to it.
"""

from minted_connect.feed.alerts import PriceAlert
from minted_connect.feed.candles import Candle, ohlc
from minted_connect.feed.feed import RateFeed
from minted_connect.feed.fleet.member import Fleet, FleetMember
from minted_connect.feed.hub import Subscription
from minted_connect.feed.poller import Poller
from minted_connect.feed.sinks.base import Sink
from minted_connect.feed.sinks.lines import CsvSink, JsonLinesSink
from minted_connect.feed.sinks.recording import record
from minted_connect.feed.source import LocalSource, Source
from minted_connect.feed.tick import Tick

__all__ = [
    "Candle",
    "CsvSink",
    "Fleet",
    "FleetMember",
    "JsonLinesSink",
    "LocalSource",
    "Poller",
    "PriceAlert",
    "RateFeed",
    "Sink",
    "Source",
    "Subscription",
    "Tick",
    "ohlc",
    "record",
]
