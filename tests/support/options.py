"""Client options for servers whose reads show every change at once, so that no test waits for a replica."""

from __future__ import annotations

import attrs

from minted_connect import CompletionPolicy, Options

__all__ = ["fresh_reads"]


def fresh_reads(options: Options | None = None) -> Options:
    """Return options for a server that shows every change at once. Delays that a test sets stay."""
    options = options or Options()
    policy = options.completion
    if policy.orders_lag != CompletionPolicy().orders_lag:
        return options
    return attrs.evolve(options, completion=attrs.evolve(policy, orders_lag=0.0))
