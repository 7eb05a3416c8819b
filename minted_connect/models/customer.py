"""Customers and their accounts."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.json_types import DIGITS
from minted_connect.models.masking import masked, masked_except_last, masked_except_last_two
from minted_connect.response_info import HasResponse

__all__ = ["AccountType", "Customer", "CustomerWallet", "Gender"]


class Gender(enum.StrEnum):
    """Known values of `Customer.gender`; others stay plain strings."""

    MALE = "M"
    FEMALE = "F"


class AccountType(enum.StrEnum):
    """Known values of `Customer.account_type`; others stay plain strings."""

    PERSON = "person"
    COMPANY = "company"


@attrs.frozen(slots=False)
class CustomerWallet:
    """One account of a customer.

    Source: Get Customer (api-8228811, 2024-08-07), partly documented: that page shows only `id` and the beginning of
    `customer_external_id`; the other attributes are those of Partner Customer Balance.
    """

    id: int = attrs.field(metadata=DIGITS)
    customer_external_id: str | None = attrs.field(default=None, repr=masked_except_last)
    name: str | None = None
    currency_id: int | None = attrs.field(default=None, metadata=DIGITS)
    currency_symbol: str | None = None
    currency_code: str | None = None
    is_cash: bool | None = None
    balance: Decimal | None = None
    """Balance of the account, in `currency_code`."""
    blocked: Decimal | None = None
    """Part of `balance` that open orders block, in `currency_code`."""
    real_balance: Decimal | None = None
    """Balance that is available, in `currency_code`."""


@attrs.frozen(slots=False)
class Customer(HasResponse):
    """An end customer. Attributes that a response leaves out are None.

    Source: Create Customer (api-25995712, 2025-12-24, documented), Get Customer (api-8228811, partly documented)
    and the `customer` of baskets and orders (api-26503573, documented), which has the first twelve attributes.
    """

    external_id: str = attrs.field(repr=masked_except_last)
    """The id that the partner gave the customer: the parameter `customer_id` of all methods."""
    firstname: str | None = attrs.field(default=None, repr=masked)
    middlename: str | None = attrs.field(default=None, repr=masked)
    lastname: str | None = attrs.field(default=None, repr=masked)
    fullname: str | None = attrs.field(default=None, repr=masked)
    email: str | None = attrs.field(default=None, repr=masked)
    phone: str | None = attrs.field(default=None, repr=masked)
    gender: Gender | str | None = attrs.field(default=None, repr=masked)
    identity_number: str | None = attrs.field(default=None, repr=masked_except_last_two)
    tax_office: str | None = attrs.field(default=None, repr=masked)
    """Business customers only."""
    birthdate: date | None = attrs.field(default=None, repr=masked)
    account_type: AccountType | str | None = None
    id: int | None = attrs.field(default=None, metadata=DIGITS)
    """The vendor's own id of the customer."""
    company_id: int | None = attrs.field(default=None, metadata=DIGITS)
    user_id: int | None = attrs.field(default=None, metadata=DIGITS)
    created_at: datetime | None = None
    """Received without a time zone; UTC is assumed."""
    updated_at: datetime | None = None
    """Received without a time zone; UTC is assumed."""
    wallets: tuple[CustomerWallet, ...] = ()
    """Only Get Customer returns them."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""
