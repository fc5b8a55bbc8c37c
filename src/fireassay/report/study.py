"""What every part of the report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireassay.report.comparisons import Comparisons, compare_all
from fireassay.report.criteria import Criteria
from fireassay.report.runs import Run


@dataclass(frozen=True)
class Study:
    """The runs, the thresholds, and every comparison of two runs."""

    runs: list[Run]
    criteria: Criteria
    comparisons: Comparisons

    @classmethod
    def of(cls, runs: Sequence[Run], criteria: Criteria | None = None) -> Study:
        """A study whose comparisons are made now."""
        rules = criteria or Criteria()
        return cls(list(runs), rules, compare_all(runs, rules.significance))
