"""SDK for Minted Connect's Walletable E-Commerce partner API, with an asyncio and a blocking client.

`AsyncMintedConnect` is the asyncio client, `MintedConnect` the blocking one. Importing the package imports no other
module; each public name imports its module at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minted_connect._version import __version__

if TYPE_CHECKING:
    from minted_connect.blocking import BlockingRateFeed, BlockingReconciler, BlockingSubscription, MintedConnect
    from minted_connect.client import AsyncMintedConnect
    from minted_connect.clock import Clock, SystemClock
    from minted_connect.completion.interruption import intent_of
    from minted_connect.completion.reconciler import Reconciler, ReconcilerStatus
    from minted_connect.config import (
        STAGING,
        BreakerPolicy,
        CompletionPolicy,
        Options,
        RateLimit,
        RetryPolicy,
        SpendingLimit,
        Timeouts,
    )
    from minted_connect.core.response import Response
    from minted_connect.dataframes import to_arrow, to_pandas, to_polars
    from minted_connect.errors import (
        AlreadyInFlight,
        APIError,
        AuthDowngrade,
        AuthenticationFailed,
        BadRequest,
        BasketIncomplete,
        BudgetExhausted,
        CircuitOpen,
        ClientClosedError,
        CompletionRejected,
        ConfigurationError,
        Conflict,
        ConnectFailed,
        Effect,
        FleetError,
        IntegrityError,
        InvalidInput,
        JournalError,
        LimiterTimeout,
        LimitExceeded,
        MintedConnectError,
        NotExecuted,
        NotFound,
        NotSent,
        OrderUnreadable,
        OutcomeUnknown,
        PermissionDenied,
        Phase,
        PoolTimeout,
        PriceChanged,
        PriceFixExpired,
        ProtocolError,
        RateLimited,
        RequestInfo,
        RequestTimeout,
        ResponseTooLarge,
        ServerError,
        SinkError,
        TLSFailed,
        TransportError,
        UnexpectedRedirect,
        ValidationFailed,
    )
    from minted_connect.feed import (
        Candle,
        CsvSink,
        Fleet,
        JsonLinesSink,
        PriceAlert,
        RateFeed,
        Sink,
        Subscription,
        Tick,
        ohlc,
        record,
    )
    from minted_connect.feed.sinks.parquet import ParquetSink
    from minted_connect.feed.sinks.sqlite import SqliteSink
    from minted_connect.hooks import Attempt
    from minted_connect.journal.claims import ClaimJournal
    from minted_connect.journal.memory import MemoryJournal
    from minted_connect.journal.postgres import PostgresJournal
    from minted_connect.journal.protocol import Journal, ReferenceJournal
    from minted_connect.journal.sqlite import SqliteJournal
    from minted_connect.models import (
        AccountType,
        BaseCurrency,
        Basket,
        BasketKey,
        Category,
        Completion,
        CreationStatus,
        Customer,
        CustomerWallet,
        Delivery,
        Gender,
        Holding,
        Intent,
        IntentPage,
        IntentState,
        Invoice,
        InvoiceItem,
        LineItem,
        MetalType,
        Order,
        OrderChange,
        OrderKind,
        OrderProgress,
        OrderStatus,
        Page,
        Payment,
        PriceFix,
        PricePart,
        Product,
        Rate,
        RatePoint,
        Receipt,
        ReconcileResult,
        Refusal,
        Shipping,
        ShippingAddress,
        UnreadableRow,
    )
    from minted_connect.ping import PingResult
    from minted_connect.preloading import preload
    from minted_connect.response_info import ResponseInfo
    from minted_connect.secret import Credentials, Secret
    from minted_connect.serialization import from_dict, from_json, to_dict, to_json
    from minted_connect.server_warnings import ServerWarning

_NAMES = {
    "minted_connect.blocking": "BlockingRateFeed BlockingReconciler BlockingSubscription MintedConnect",
    "minted_connect.client": "AsyncMintedConnect",
    "minted_connect.clock": "Clock SystemClock",
    "minted_connect.completion.interruption": "intent_of",
    "minted_connect.completion.reconciler": "Reconciler ReconcilerStatus",
    "minted_connect.config": (
        "BreakerPolicy CompletionPolicy Options RateLimit RetryPolicy STAGING SpendingLimit Timeouts"
    ),
    "minted_connect.core.response": "Response",
    "minted_connect.errors": (
        "APIError AlreadyInFlight AuthDowngrade AuthenticationFailed BadRequest BasketIncomplete BudgetExhausted "
        "CircuitOpen ClientClosedError CompletionRejected ConfigurationError Conflict ConnectFailed Effect "
        "FleetError IntegrityError InvalidInput JournalError LimitExceeded LimiterTimeout MintedConnectError "
        "NotExecuted NotFound NotSent OrderUnreadable OutcomeUnknown PermissionDenied Phase PoolTimeout "
        "PriceChanged PriceFixExpired ProtocolError RateLimited RequestInfo RequestTimeout ResponseTooLarge "
        "ServerError SinkError TLSFailed TransportError UnexpectedRedirect ValidationFailed"
    ),
    "minted_connect.feed": "Candle CsvSink Fleet JsonLinesSink PriceAlert RateFeed Sink Subscription Tick ohlc record",
    "minted_connect.dataframes": "to_arrow to_pandas to_polars",
    "minted_connect.feed.sinks.parquet": "ParquetSink",
    "minted_connect.feed.sinks.sqlite": "SqliteSink",
    "minted_connect.hooks": "Attempt",
    "minted_connect.journal.claims": "ClaimJournal",
    "minted_connect.journal.memory": "MemoryJournal",
    "minted_connect.journal.postgres": "PostgresJournal",
    "minted_connect.journal.protocol": "Journal ReferenceJournal",
    "minted_connect.journal.sqlite": "SqliteJournal",
    "minted_connect.models": (
        "AccountType BaseCurrency Basket BasketKey Category Completion CreationStatus Customer CustomerWallet "
        "Delivery Gender Holding Intent IntentPage IntentState Invoice InvoiceItem LineItem MetalType Order "
        "OrderChange OrderKind OrderProgress OrderStatus Page Payment PriceFix PricePart Product Rate RatePoint "
        "Receipt ReconcileResult Refusal Shipping ShippingAddress UnreadableRow"
    ),
    "minted_connect.ping": "PingResult",
    "minted_connect.preloading": "preload",
    "minted_connect.response_info": "ResponseInfo",
    "minted_connect.secret": "Credentials Secret",
    "minted_connect.serialization": "from_dict from_json to_dict to_json",
    "minted_connect.server_warnings": "ServerWarning",
}
"""The public names of each module that has any."""

_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "STAGING",
    "APIError",
    "AccountType",
    "AlreadyInFlight",
    "AsyncMintedConnect",
    "Attempt",
    "AuthDowngrade",
    "AuthenticationFailed",
    "BadRequest",
    "BaseCurrency",
    "Basket",
    "BasketIncomplete",
    "BasketKey",
    "BlockingRateFeed",
    "BlockingReconciler",
    "BlockingSubscription",
    "BreakerPolicy",
    "BudgetExhausted",
    "Candle",
    "Category",
    "CircuitOpen",
    "ClaimJournal",
    "ClientClosedError",
    "Clock",
    "Completion",
    "CompletionPolicy",
    "CompletionRejected",
    "ConfigurationError",
    "Conflict",
    "ConnectFailed",
    "CreationStatus",
    "Credentials",
    "CsvSink",
    "Customer",
    "CustomerWallet",
    "Delivery",
    "Effect",
    "Fleet",
    "FleetError",
    "Gender",
    "Holding",
    "IntegrityError",
    "Intent",
    "IntentPage",
    "IntentState",
    "InvalidInput",
    "Invoice",
    "InvoiceItem",
    "Journal",
    "JournalError",
    "JsonLinesSink",
    "LimitExceeded",
    "LimiterTimeout",
    "LineItem",
    "MemoryJournal",
    "MetalType",
    "MintedConnect",
    "MintedConnectError",
    "NotExecuted",
    "NotFound",
    "NotSent",
    "Options",
    "Order",
    "OrderChange",
    "OrderKind",
    "OrderProgress",
    "OrderStatus",
    "OrderUnreadable",
    "OutcomeUnknown",
    "Page",
    "ParquetSink",
    "Payment",
    "PermissionDenied",
    "Phase",
    "PingResult",
    "PoolTimeout",
    "PostgresJournal",
    "PriceAlert",
    "PriceChanged",
    "PriceFix",
    "PriceFixExpired",
    "PricePart",
    "Product",
    "ProtocolError",
    "Rate",
    "RateFeed",
    "RateLimit",
    "RateLimited",
    "RatePoint",
    "Receipt",
    "ReconcileResult",
    "Reconciler",
    "ReconcilerStatus",
    "ReferenceJournal",
    "Refusal",
    "RequestInfo",
    "RequestTimeout",
    "Response",
    "ResponseInfo",
    "ResponseTooLarge",
    "RetryPolicy",
    "Secret",
    "ServerError",
    "ServerWarning",
    "Shipping",
    "ShippingAddress",
    "Sink",
    "SinkError",
    "SpendingLimit",
    "SqliteJournal",
    "SqliteSink",
    "Subscription",
    "SystemClock",
    "TLSFailed",
    "Tick",
    "Timeouts",
    "TransportError",
    "UnexpectedRedirect",
    "UnreadableRow",
    "ValidationFailed",
    "__version__",
    "from_dict",
    "from_json",
    "intent_of",
    "ohlc",
    "preload",
    "record",
    "to_arrow",
    "to_dict",
    "to_json",
    "to_pandas",
    "to_polars",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
