"""The error of a refused request, independent of HTTP."""


class ShopError(Exception):
    """A request that the shop refuses.

    Attributes:
        status: HTTP status of the response.
        text: key of the message in `messages`.
        fields: request field -> (key of a message, values for its placeholders).
    """

    def __init__(self, status: int, text: str, /, **fields: tuple[str, dict[str, object]]) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.fields = fields


def invalid(name: str, text: str, /, **values: object) -> ShopError:
    """Return the 422 for one request field."""
    return ShopError(422, "invalid", **{name: (text, values)})
