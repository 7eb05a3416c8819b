"""Responses for FastAPI and Starlette (extra `fastapi`).

Routes that name a model as their return type need nothing from here: pydantic knows the models. Other routes return a
`MintedJSONResponse`, because FastAPI's own encoder converts money to floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minted_connect.core.extras import import_extra
from minted_connect.serialization import to_json

__all__ = ["MintedJSONResponse"]

if TYPE_CHECKING:
    from starlette.responses import Response
else:
    Response = import_extra("starlette.responses", "fastapi", "starlette is not installed").Response


class MintedJSONResponse(Response):
    """A JSON response with models, or with lists and mappings of models: money is text, and times are ISO 8601.

    Return it from the route: `return MintedJSONResponse({"order": order})`. As a `response_class` it would get values
    that FastAPI has converted before.

    Raises:
        InvalidInput: on creation, if a value has no form in JSON.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return to_json(content).encode()
