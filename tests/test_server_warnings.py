"""`Options.app_info`, and Python warnings for `Deprecation`, `Sunset` and `Warning` headers."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from minted_connect import ConfigurationError, Options, ServerWarning, __version__
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.secret import Secret
from minted_connect.server_warnings import ServerWarnings
from tests.support.raw_server import Connection, RawServer

HEADERS = (
    "Deprecation: @1688169599\r\nSunset: Sat, 31 Dec 2033 23:59:59 GMT\r\n"
    'Warning: 299 - "canary-secret: ask ada@mail.example about canary-id"\r\nWarning: 299 - "second"\r\n'
)


async def deprecate(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([], headers=HEADERS)


@pytest.mark.anyio
async def test_each_header_warns_once_per_client_and_operation(connect: Any):
    async with RawServer(deprecate) as server:
        minted = await connect(server.url, password="canary-secret")
        with pytest.warns(ServerWarning) as caught:
            await minted.rates.current()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await minted.rates.current()
            await minted.with_options(language="en").rates.current()
        with pytest.warns(ServerWarning) as other:
            await minted.wallet.balance("canary-id")
    texts = [str(warning.message) for warning in caught]
    route = "GET /partner/walletable/rates"
    assert texts == [
        f"{route}: the server marks the operation as deprecated as of 2023-06-30 (header Deprecation)",
        f"{route}: the server will end the operation on 2033-12-31 (header Sunset)",
        f'{route}: the server warns: 299 - "***: ask *** about canary-id", 299 - "second" (header Warning)',
    ]
    assert len(other) == 3
    assert not any("canary" in str(warning.message) for warning in other)


@pytest.mark.anyio
async def test_warning_as_error_is_logged_and_no_call_fails(connect: Any, caplog: pytest.LogCaptureFixture):
    async with RawServer(deprecate) as server:
        minted = await connect(server.url)
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "minted_connect"):
            warnings.simplefilter("error")
            assert await minted.rates.current() == ()
    assert sum("(header " in message for message in caplog.messages) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("@1688169599", "deprecated as of 2023-06-30 ("),
        ("@1688169599;a=1", "deprecated as of 2023-06-30 ("),
        ("Sun, 11 Nov 2018 23:59:59 GMT", "deprecated as of 2018-11-11 ("),
        ("true", "deprecated ("),
        ("@999999999999", "deprecated ("),
        ("@x", "deprecated ("),
        ("", "deprecated ("),
    ],
)
def test_deprecation_names_the_date(value: str, text: str):
    with pytest.warns(ServerWarning) as caught:
        issue(ServerWarnings(), {"Deprecation": value})
    assert text in str(caught[0].message)


def issue(server_warnings: ServerWarnings, headers: dict[str, str]) -> None:
    request = Request(OPERATIONS["rates.current"])
    server_warnings.issue(CIMultiDictProxy(CIMultiDict(headers)), request, (Secret("canary"),))


@given(st.sampled_from(["Deprecation", "Sunset", "Warning"]), st.text())
def test_text_of_a_warning_is_one_short_line(name: str, value: str):
    with pytest.warns(ServerWarning) as caught:
        issue(ServerWarnings(), {name: f"canary {value}"})
    (text,) = [str(warning.message) for warning in caught]
    assert text.isprintable()
    assert len(text) < 400
    assert "canary" not in text


@pytest.mark.anyio
async def test_app_info_is_added_to_the_user_agent(connect: Any):
    async with RawServer(deprecate) as server:
        minted = await connect(server.url, options=Options(app_info=("shop", "2.1")))
        with pytest.warns(ServerWarning):
            await minted.rates.current()
        (entry,) = [entry for each in server.connections for entry in each.requests]
    assert entry[1]["user-agent"] == f"shop/2.1 minted-connect/{__version__}"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("shop/2.1", "must be a tuple of two strings"),
        (["shop", "2.1"], "must be a tuple of two strings"),
        (("shop",), "must be a tuple of two strings"),
        (("shop", 2.1), "must be a tuple of two strings"),
        (("my shop", "2.1"), "the name must be a token"),
        (("shop/x", "2.1"), "the name must be a token"),
        (("", "2.1"), "the name must be a token"),
        (("shop", ""), "the version must be a token"),
        (("shop", "2.1\r\nX: 1"), "the version must be a token"),
        (("shop", "2.1\n"), "the version must be a token"),
        (("schön", "1"), "the name must be a token"),
        (("shop", "(1)"), "the version must be a token"),
        (("s" * 65, "1"), "the name must be a token of 1 to 64"),
    ],
)
def test_invalid_app_info_is_refused(value: Any, problem: str):
    with pytest.raises(ConfigurationError, match=rf"Options\.app_info: {problem}"):
        Options(app_info=value)


def test_app_info_beside_user_agent_is_refused():
    with pytest.raises(ConfigurationError, match=r"Options\.app_info: must be None if user_agent is given"):
        Options(app_info=("shop", "1"), user_agent="shop")
