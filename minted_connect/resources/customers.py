"""Customers: create, get, update, remove."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date
from typing import Any, Final, Literal

from minted_connect import validation
from minted_connect.core.failures import may_have_executed
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import APIError, InvalidInput, MintedConnectError, NotFound
from minted_connect.models import AccountType, Customer, Gender
from minted_connect.resources.base import Resource

__all__ = ["AsyncCustomers"]


class _Absent(enum.Enum):
    """Stands for an argument that was not given, where None means null."""

    ABSENT = enum.auto()


_NOT_SHOWN: Final = frozenset({"tax_office", "account_type"})
"""What Create Customer takes and Get Customer, as documented, does not show."""

_ABSENT: Final = _Absent.ABSENT
_MaybeText = str | None | Literal[_Absent.ABSENT]


class AsyncCustomers(Resource):
    """End customers, named by the partner's own id."""

    async def create(
        self,
        external_id: str,
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

        `external_id` is the partner's own id (the Partner page: 3 to 40 letters, digits, `-` and `_`). Never sent twice
        unless provably not received; when it is not known whether it was, the customer is read back, and returned if
        it shows everything that was sent (`tax_office` and `account_type` are not shown). A customer who was there
        before under this id, with the same details, cannot be told from the new one; the fewer details are sent, the
        less this proves.

        Raises:
            ValidationFailed: among others, for an id that is taken (assumed, S8).
            IntegrityError: the answer is about another customer.

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
        new = validation.text("external_id", external_id)
        request = Request(OPERATIONS["customers.create"], body={"external_id": new, **given})

        async def read_back(error: MintedConnectError) -> Customer:
            if isinstance(error, APIError) and not error.after_unknown and not may_have_executed(error):
                # A customer of this id may have been there before: a denial is no reason to take that one for the new.
                raise error
            return await self._confirmed(new, given, error)

        return await self._api.send(request, Customer, read_back=read_back, lock=new, check=_is_named(new))

    async def get(self, external_id: str) -> Customer:
        """Return a customer with the wallets.

        Raises:
            NotFound: no such customer (assumed, S11).
            IntegrityError: the answer is about another customer.

        Source: Get Customer (E-Commerce page api-8228811, 2024-08-07): partly documented; wallet rows are inferred.
        """
        known = validation.customer_id(external_id)
        request = Request(OPERATIONS["customers.get"], (known,))
        return await self._api.send(request, Customer, check=_is_named(known))

    async def update(
        self,
        external_id: str,
        *,
        firstname: _MaybeText = _ABSENT,
        middlename: _MaybeText = _ABSENT,
        lastname: _MaybeText = _ABSENT,
        email: _MaybeText = _ABSENT,
        phone: _MaybeText = _ABSENT,
        gender: Gender | str | Literal[_Absent.ABSENT] | None = _ABSENT,
        identity_number: _MaybeText = _ABSENT,
        birthdate: date | Literal[_Absent.ABSENT] | None = _ABSENT,
    ) -> Customer:
        """Change a customer: what is left out stays, None is sent as null.

        The vendor documents first name, last name, phone and identity number as required; whether a partial change
        passes, and whether null erases, is not known (S9).

        Raises:
            NotFound: no such customer (assumed).
            IntegrityError: the answer is about another customer.

        Source: Update Customer (E-Commerce page api-8228809, 2024-08-07): partly documented; the answer is inferred.
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
        changes = self._checked({name: value for name, value in fields.items() if value is not _ABSENT})
        if not changes:
            raise InvalidInput.of("update", "must change at least one field")
        known = validation.customer_id(external_id)
        request = Request(OPERATIONS["customers.update"], (known,), body=changes)

        async def read_back(error: MintedConnectError) -> Customer:
            return await self._confirmed(known, changes, error)

        return await self._api.send(request, Customer, read_back=read_back, lock=known, check=_is_named(known))

    async def remove(self, external_id: str) -> None:
        """Detach the partner's id from a customer (by its name; what exactly is removed is not known, S10).

        Raises:
            NotFound: no such customer (assumed).

        Source: Remove Customer Id: inferred (name and method from the menu).
        """
        known = validation.customer_id(external_id)

        async def read_back(error: MintedConnectError) -> None:
            # Of the vendor's own 404s only: one without its code may be a gateway's, and says nothing.
            if isinstance(error, NotFound) and error.is_vendor_response:
                return  # a repeated removal finds nothing: the first one worked
            try:
                await self.get(known)
            except MintedConnectError as found:
                if isinstance(found, NotFound) and found.is_vendor_response:
                    return
                raise error from None
            raise error

        request = Request(OPERATIONS["customers.remove"], (known,))
        await self._api.run(request, read_back=read_back, lock=known)

    async def _confirmed(self, external_id: str, sent: dict[str, Any], error: MintedConnectError) -> Customer:
        """Return the customer if it is as `sent`; otherwise the change is not there, and `error` stands."""
        try:
            found = await self.get(external_id)
        except MintedConnectError:
            raise error from None
        shown = {"external_id": external_id, **{name: sent[name] for name in sent.keys() - _NOT_SHOWN}}
        if all(found.raw.get(name) == value for name, value in shown.items()):
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


def _is_named(external_id: str) -> Callable[[Customer], list[str]]:
    """Return what tells why a customer is not the one asked for: a proxy or a cache may mix up answers."""

    def wrong(customer: Customer) -> list[str]:
        return [] if customer.external_id == external_id else ["data.external_id: is another customer's"]

    return wrong
