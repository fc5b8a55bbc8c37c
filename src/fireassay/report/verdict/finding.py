"""What a verdict is made of: sentences with evidence, and the thresholds behind their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fireassay.report.runs import Run, Source
from fireassay.settings import Settings


class Criteria(Settings):
    """The thresholds behind the words of the verdict; the report prints them."""

    accurate: float = Field(
        default=5.0, gt=0, description="force RMSE in % of the reference standard deviation: at most this is accurate"
    )
    usable: float = Field(default=10.0, gt=0, description="the same: at most this is usable, more is not")
    survival: float = Field(
        default=0.9, gt=0, le=1, description="share of trajectories alive at the end below which MD is advised against"
    )
    calibrated: float = Field(
        default=0.05, gt=0, description="miscalibration area |A| up to which error bars are called honest"
    )
    misleading: float = Field(
        default=0.15, gt=0, description="miscalibration area |A| above which error bars are called misleading"
    )
    informative: float = Field(
        default=0.5, gt=0, le=1, description="Spearman correlation above which uncertainty ranks atoms by error"
    )
    significance: float = Field(default=0.05, gt=0, lt=1, description="significance level of the tests")


@dataclass(frozen=True)
class Finding:
    """What is said, where its evidence is shown (anchor, words), and the files that hold its numbers."""

    text: str
    evidence: list[tuple[str, str]]
    sources: list[Source]
    run: int | None = None  # the potential it is about, when it is about one


def names(runs: Sequence[Run]) -> str:
    """The labels as in a sentence."""
    return joined([run.label for run in runs])


def joined(items: Sequence[str]) -> str:
    """Words as in a sentence: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
