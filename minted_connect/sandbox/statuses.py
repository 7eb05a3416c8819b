"""The statuses of an order: their ids (section 5, unverified), and the course an order runs by itself."""

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

COURSES: dict[str, tuple[str, ...]] = {
    "buy": ("Pending", "Processing", "Completed"),
    "sell": ("Pending", "Processing", "Completed"),
    "delivery": ("Pending", "Preparing", "Packed", "Shipped", "Completed"),
}
"""Kind of order -> the statuses it goes through."""
