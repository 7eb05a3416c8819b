"""Customers: create, get, update, remove."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date
from types import NoneType
from typing import Any, Final, Literal

from minted_connect import validation
from minted_connect.core.failures import may_have_executed
from minted_connect.core.pool import PoolKind
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import APIError, InvalidInput, MintedConnectError, NotFound
from minted_connect.models import AccountType, Customer, Gender
from minted_connect.resources.base import Resource, owner_problems

__all__ = ["AsyncCustomers"]


class _Unset(enum.Enum):
    """Default of arguments for which None means null."""

    UNSET = enum.auto()


_NOT_RETURNED: Final = frozenset({"tax_office", "account_type"})
"""Fields of Create Customer that Get Customer does not return, as documented."""

_UNSET: Final = _Unset.UNSET
_MaybeText = str | None | Literal[_Unset.UNSET]


class AsyncCustomers(Resource):
    """End customers, identified by the id that the partner gave them."""

    async def create(
        self,
        customer_id: str,
        *,
        firstname: str | None = None,
        middlename: str | None = None,
        lastname: str | None = None,
        email: str | None = None,
        phone: str | None = None,
        gender: Gender | str | None = None,
        identity_number: str | None = None,
        birthdate: date | None = None,
        tax_office: str | None = None,
        account_type: AccountType | str | None = None,
    ) -> Customer:
        """Create a customer.

        The request is retried only if it provably was not sent. If the server may have received it, the customer is
        read, and returned if the response has everything that was sent (`tax_office` and `account_type` are never
        returned, so they are not compared). An older customer with this id and the same details cannot be distinguished
        from the new one; the fewer details are sent, the less the read proves.

        Args:
            customer_id: The partner's own id of the customer (the Partner page: 3 to 40 letters, digits, `-` and `_`).
            firstname: First name.
            middlename: Middle name; may be empty.
            lastname: Last name.
            email: E-mail address.
            phone: Phone number.
            gender: `M` or `F`.
            identity_number: National identity number.
            birthdate: Date of birth.
            tax_office: Tax office; business customers only.
            account_type: `person` or `company`.

        Raises:
            ValidationFailed: if the server refuses a value, for example an id that exists already (assumed, S8).
            IntegrityError: if the response belongs to another customer.

        Source: Create Customer (api-25995712, 2025-12-24): documented. `tax_office` and `account_type` are from
        Partner Create Business Customer (api-15819241).
        """
        fields: dict[str, Any] = {
            "firstname": firstname,
            "middlename": middlename,
            "lastname": lastname,
            "email": email,
            "phone": phone,
            "gender": gender,
            "identity_number": identity_number,
            "birthdate": birthdate,
            "tax_office": tax_office,
            "account_type": account_type,
        }
        given = self._checked({name: value for name, value in fields.items() if value is not None})
        new = validation.customer_id(customer_id)
        request = Request(OPERATIONS["customers.create"], body={"external_id": new, **given})

        async def read_back(error: MintedConnectError) -> Customer:
            if isinstance(error, APIError) and not error.after_unknown and not may_have_executed(error):
                # The server refused to create the customer: one that a read finds is older.
                raise error
            return await self._read_back(new, given, error)

        return await self._api.send(request, Customer, read_back=read_back, lock=new, check=_owner_check(new))

    async def get(self, customer_id: str) -> Customer:
        """Return a customer with its wallets.

        Raises:
            NotFound: if the customer does not exist (assumed, S11).
            IntegrityError: if the response belongs to another customer.

        Source: Get Customer (E-Commerce page api-8228811, 2024-08-07): partly documented; wallet rows are inferred.
        """
        known = validation.customer_id(customer_id)
        request = Request(OPERATIONS["customers.get"], (known,))
        return await self._api.send(request, Customer, check=_owner_check(known))

    async def update(
        self,
        customer_id: str,
        *,
        firstname: _MaybeText = _UNSET,
        middlename: _MaybeText = _UNSET,
        lastname: _MaybeText = _UNSET,
        email: _MaybeText = _UNSET,
        phone: _MaybeText = _UNSET,
        gender: Gender | str | Literal[_Unset.UNSET] | None = _UNSET,
        identity_number: _MaybeText = _UNSET,
        birthdate: date | Literal[_Unset.UNSET] | None = _UNSET,
    ) -> Customer:
        """Change the given fields of a customer. None is sent as null.

        The vendor documents first name, last name, phone and identity number as required. Whether the server accepts a
        request without them, and whether null erases a field, is not known (S9).

        Raises:
            InvalidInput: if no field is given, or a value is invalid.
            NotFound: if the customer does not exist (assumed).
            IntegrityError: if the response belongs to another customer.

        Source: Update Customer (E-Commerce page api-8228809, 2024-08-07): partly documented; the response is inferred.
        """
        fields: dict[str, Any] = {
            "firstname": firstname,
            "middlename": middlename,
            "lastname": lastname,
            "email": email,
            "phone": phone,
            "gender": gender,
            "identity_number": identity_number,
            "birthdate": birthdate,
        }
        changes = self._checked({name: value for name, value in fields.items() if value is not _UNSET})
        if not changes:
            raise InvalidInput.of("update", "must change at least one field")
        known = validation.customer_id(customer_id)
        request = Request(OPERATIONS["customers.update"], (known,), body=changes)

        async def read_back(error: MintedConnectError) -> Customer:
            return await self._read_back(known, changes, error)

        return await self._api.send(request, Customer, read_back=read_back, lock=known, check=_owner_check(known))

    async def remove(self, customer_id: str) -> None:
        """Detach the partner's id from a customer. What exactly the server removes is not known (S10).

        Raises:
            NotFound: if the customer does not exist (assumed).

        Source: Remove Customer Id: inferred (name and method from the menu).
        """
        known = validation.customer_id(customer_id)

        async def read_back(error: MintedConnectError) -> None:
            # A 404 without the vendor's envelope may come from a gateway and proves nothing.
            if isinstance(error, NotFound) and error.is_vendor_response:
                return  # a retry was refused: the first attempt has removed the id
            try:
                await self._get_over_new_connection(known)
            except MintedConnectError as found:
                if isinstance(found, NotFound) and found.is_vendor_response:
                    return
                raise error from None
            raise error

        request = Request(OPERATIONS["customers.remove"], (known,))
        await self._api.send(request, NoneType, read_back=read_back, lock=known)

    async def _get_over_new_connection(self, customer_id: str) -> Customer:
        # The connections of the default pool may be broken, as the one of the change was.
        return await AsyncCustomers(self._api.with_pool(PoolKind.RECOVERY)).get(customer_id)

    async def _read_back(self, customer_id: str, sent: dict[str, Any], error: MintedConnectError) -> Customer:
        """Return the customer if it has all values of `sent`; otherwise raise `error`."""
        try:
            found = await self._get_over_new_connection(customer_id)
        except MintedConnectError:
            raise error from None
        expected = {"external_id": customer_id, **{name: sent[name] for name in sent.keys() - _NOT_RETURNED}}
        # A birth date may come as a midnight; null and "" are both used for a missing value.
        received = {**found.raw, "birthdate": found.birthdate and found.birthdate.isoformat()}
        if all((received.get(name) or None) == (value or None) for name, value in expected.items()):
            return found
        raise error

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        sent: dict[str, Any] = {}
        for name, value in fields.items():
            if value is None:
                sent[name] = None
            elif name == "birthdate":
                sent[name] = validation.iso_date(name, value)
            else:
                sent[name] = validation.text(name, value, empty=name == "middlename")
        return sent


def _owner_check(customer_id: str) -> Callable[[Customer], list[str]]:
    return lambda customer: owner_problems(customer_id, {"data": customer})
