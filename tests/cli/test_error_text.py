"""The lines that `minted` prints for errors of the server."""

from __future__ import annotations

import pytest

from minted_connect.cli.error_text import describe_error
from minted_connect.errors import AuthDowngrade
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import Minted

WRONG = {"MINTED_CONNECT_PASSWORD": "another"}
REFUSED = "the server does not accept the user name or the password"


@pytest.mark.parametrize(("language", "message"), [("tr", "Kimlik doğrulanamadı."), ("en", "Unauthenticated.")])
def test_wrong_password_prints_a_sentence_and_quotes_the_server(minted: Minted, language: str, message: str) -> None:
    result = minted("rates", "--language", language, env=WRONG)
    assert (result.code, result.out) == (3, "")
    assert result.err.strip() == f'minted: {REFUSED} (GET /partner/walletable/rates: 401 "{message}")'


def test_purchase_with_wrong_password_prints_the_sentence(minted: Minted, sandbox: ThreadedSandbox) -> None:
    result = minted("buy", "customer-1", "--yes", env=WRONG)
    assert result.code == 3
    assert f"minted: {REFUSED} (GET /partner/walletable/basket: 401" in result.err
    assert not sandbox.requests.of("complete.buy")


def test_page_of_a_gateway_is_not_quoted(minted: Minted, sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("status", path="*/rates", status=401, envelope=False)
    result = minted("rates")
    assert result.code == 3
    assert result.err.strip() == (
        "minted: the server or a gateway does not accept the user name or the password "
        "(GET /partner/walletable/rates: 401)"
    )


def test_auth_downgrade_keeps_its_text() -> None:
    assert describe_error(AuthDowngrade("weaker than before"), str) == ["weaker than before"]
