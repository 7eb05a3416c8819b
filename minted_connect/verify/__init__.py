"""Finding out on a real server which of the inferred paths and shapes are so: what `minted verify` runs.

`probes` says what is asked, `shape` compares an answer with a model, `run` does it, `report` writes it down. Nothing is
bought, and nothing personal is kept: of answers only the names and JSON types of fields.
"""

from __future__ import annotations

from minted_connect.verify.report import Assessment, Finding, Report, as_json, as_markdown
from minted_connect.verify.run import verify

__all__ = ["Assessment", "Finding", "Report", "as_json", "as_markdown", "verify"]
