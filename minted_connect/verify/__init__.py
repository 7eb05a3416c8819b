"""Checks on a real server which inferred paths and response fields are right. Used by `minted verify`.

It buys nothing. Reports contain names and JSON types of response fields, and no values.
"""

from __future__ import annotations

from minted_connect.verify.report import Assessment, ProbeResult, Report, as_json, as_markdown
from minted_connect.verify.run import verify

__all__ = ["Assessment", "ProbeResult", "Report", "as_json", "as_markdown", "verify"]
