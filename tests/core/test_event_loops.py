"""An asyncio client on a second event loop."""

from __future__ import annotations

import asyncio

import pytest

from minted_connect import AsyncMintedConnect, ClientClosedError, RetryPolicy, Timeouts
from minted_connect.sandbox import ThreadedSandbox


@pytest.mark.requirement(26)
def test_client_on_second_event_loop_is_refused():
    with ThreadedSandbox(seed=1) as sandbox, asyncio.Runner() as runner:
        minted = AsyncMintedConnect(
            sandbox.username,
            sandbox.password,
            base_url=sandbox.url,
            retry=RetryPolicy.none(),
            timeouts=Timeouts(read=2, total=2),
        )

        async def read() -> None:
            await minted.rates.current()

        runner.run(read())
        with pytest.raises(ClientClosedError, match="another event loop"):
            asyncio.run(read())
        assert len(sandbox.requests.of("rates.current")) == 2  # one of them for the digest challenge
        runner.run(minted.aclose())
