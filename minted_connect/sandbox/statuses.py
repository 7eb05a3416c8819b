"""The statuses of an order: their ids (section 5, unverified), and the course an order runs by itself."""

# ruff: noqa: RUF001 - Turkish has a dotless i

STATUSES: dict[str, int] = {
    "Created": 1,
    "Pending": 2,
    "Processing": 3,
    "Cancelled": 4,
    "Completed": 5,
    "Preparing": 6,
    "Packed": 7,
    "Shipped": 8,
    "Transferring": 9,
    "Refunding": 10,
    "Refunded": 11,
    "Payment Confirmed": 12,
}
"""Name -> id."""

FAILING: dict[str, int] = {
    "Cancelled": 4,
    "Canceled": 4,
    "Failed": 13,
    "Rejected": 14,
    "Declined": 15,
    "Refused": 16,
    "Expired": 17,
    "Voided": 18,
    "Refunded": 11,
    "İptal": 4,
    "İptal Edildi": 4,
    "Başarısız": 13,
    "Reddedildi": 14,
    "Onaylanmadı": 15,
    "Süresi Doldu": 17,
    "İade": 11,
    "İade Edildi": 11,
}
"""Name -> id of the statuses that say an order failed.

Working assumption (unverified): which of these words the vendor uses is not known, and the ids from 13 on are made up.
"""

_UNKNOWN = 99


def id_of_status(name: str) -> int:
    """Return the id of a status; all unknown words share one."""
    return STATUSES.get(name, FAILING.get(name, _UNKNOWN))


COURSES: dict[str, tuple[str, ...]] = {
    "buy": ("Pending", "Processing", "Completed"),
    "sell": ("Pending", "Processing", "Completed"),
    "delivery": ("Pending", "Preparing", "Packed", "Shipped", "Completed"),
}
"""Kind of order -> the statuses it goes through."""
