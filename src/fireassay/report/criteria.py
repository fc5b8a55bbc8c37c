"""The thresholds behind the words of the verdict."""

from __future__ import annotations

from pydantic import Field

from fireassay.settings import Settings


class Criteria(Settings):
    """The thresholds behind the words of the verdict; the report prints them."""

    accurate: float = Field(
        default=5.0, gt=0, description="force RMSE in % of the reference standard deviation: at most this is accurate"
    )
    usable: float = Field(default=10.0, gt=0, description="the same: at most this is usable, more is not")
    survival: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="share of trajectories alive at the end: MD is advised against when the whole 95 % interval of the "
        "share lies below, and called stable only when it lies above",
    )
    wright: float = Field(
        default=9.0,
        gt=0,
        description="Wright factor in % of all pairs up to which a structure is right (Bauchy)",
    )
    overlap: float = Field(
        default=0.01,
        gt=0,
        description="Jensen-Shannon divergence in bits of pair distances up to which a molecule's is",
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
    significance: float = Field(
        default=0.05, gt=0, lt=1, description="chance of any false decision among all comparisons of the report"
    )
