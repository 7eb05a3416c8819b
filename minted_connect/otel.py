"""Spans and metrics that follow OpenTelemetry's semantic conventions for HTTP clients (extra `otel`).

    options = Options(on_attempt=OpenTelemetry())

Each attempt is recorded as a child of the current span, and as a value of the metric `http.client.request.duration`.
`url.template` is the route. `url.full`, which the conventions require, is omitted because it contains ids.

Source: https://opentelemetry.io/docs/specs/semconv/http/ (stable, 1.23 and later).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from minted_connect.core.extras import import_extra
from minted_connect.hooks import Attempt
from minted_connect.request_info import method_and_route

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from minted_connect.models import Intent

__all__ = ["OpenTelemetry"]

_NAME: Final = "minted_connect"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_PORTS: Final = {"http": 80, "https": 443}
_BUCKETS: Final = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""Bucket boundaries in seconds, as the conventions recommend."""


class OpenTelemetry:
    """Records attempts as spans and metrics: `Options(on_attempt=OpenTelemetry())`.

    Args:
        tracer_provider: Provider of the tracer; None = the global one.
        meter_provider: Provider of the meter; None = the global one.

    Raises:
        ConfigurationError: if OpenTelemetry's API is not installed (`pip install "minted-connect[otel]"`).
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        from minted_connect._version import __version__  # noqa: PLC0415 - the package imports from here

        purpose = "telemetry needs OpenTelemetry"
        self._trace: Any = import_extra("opentelemetry.trace", "otel", purpose)
        metrics: Any = import_extra("opentelemetry.metrics", "otel", purpose)
        self._tracer: Any = self._trace.get_tracer(_NAME, __version__, tracer_provider)
        meter: Any = metrics.get_meter(_NAME, __version__, meter_provider)
        self._duration: Any = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._open_intents: Any = meter.create_gauge(
            "minted_connect.intents.open", unit="{intent}", description="Purchases with an unknown outcome."
        )

    def record_open_intents(self, intents: Sequence[Intent]) -> None:
        """Record the number of open intents as the gauge `minted_connect.intents.open`.

        Call it regularly, for example after each `complete.reconcile_all`, because the journal is not read otherwise.

        Args:
            intents: The result of `complete.pending()`.
        """
        self._open_intents.set(len(intents))

    def __call__(self, attempt: Attempt) -> None:
        """Record one attempt."""
        server = urlsplit(attempt.server)
        common: dict[str, Any] = {
            "http.request.method": attempt.method if attempt.method in _METHODS else "_OTHER",
            "server.address": server.hostname or "",
            "server.port": server.port or _PORTS.get(server.scheme, 0),
            "url.scheme": server.scheme,
            "url.template": attempt.route,
        }
        if attempt.status is not None:
            common["http.response.status_code"] = attempt.status
        failed = attempt.error is not None
        if failed:
            # The conventions require the status of an error response, otherwise the class of the exception.
            is_error_status = attempt.status is not None and attempt.status >= 400  # noqa: PLR2004
            common["error.type"] = str(attempt.status) if is_error_status else attempt.error
        self._duration.record(attempt.elapsed, common)
        span_only: dict[str, Any] = {
            "minted_connect.operation": attempt.operation,
            "minted_connect.phase": str(attempt.phase),
        }
        if attempt.number > 1:
            span_only["http.request.resend_count"] = attempt.number - 1
        ended_at = attempt.started_at + timedelta(seconds=attempt.elapsed)
        span = self._tracer.start_span(
            method_and_route(attempt.method, attempt.route),
            kind=self._trace.SpanKind.CLIENT,
            attributes={**common, **span_only},
            start_time=_nanoseconds(attempt.started_at.timestamp()),
        )
        if failed:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        span.end(end_time=_nanoseconds(ended_at.timestamp()))


def _nanoseconds(timestamp: float) -> int:
    return round(timestamp * 1e9)
