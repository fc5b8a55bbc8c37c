"""The report of one or more runs: made from records alone, without torch and without a model."""

from __future__ import annotations

from fireassay.report.page import write_report
from fireassay.report.verdict import Criteria

__all__ = ["Criteria", "write_report"]
