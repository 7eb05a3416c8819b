"""One change of the package that breaks a statement of the scorecard."""

from __future__ import annotations

import attrs


@attrs.frozen
class Mutation:
    """One change of the package, and the file whose marked tests must notice it."""

    requirement: int
    name: str
    module: str
    """Path below `minted_connect`."""
    old: str
    """Text that occurs once in the module."""
    new: str
    tests: str
    """Path below `tests`. Not the name of a test: the file's tests with the mark of the requirement are run."""
    keyword: str = ""
    """Expression for `-k`, for a file whose marked tests take long."""

    def __str__(self) -> str:
        return f"{self.requirement}-{self.name}"
