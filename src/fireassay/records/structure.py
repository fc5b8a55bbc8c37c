"""What the structure assay says."""

from __future__ import annotations

from typing import Annotated

from fireassay.records.stability import FailedTrajectory
from fireassay.records.trajectories import Likeness, SampledFrom
from fireassay.records.typed import Floats, Shape, record


@record
class Distribution:
    """A distribution over B bins: `value`, with the standard error over trajectories, and the references' by name.

    `kind` is rdf, pair density, angle, bond, bond angle, dihedral or gyration. `unit` is that of `x`. Radial
    distribution functions are numbers; the others are probability densities, in 1/unit.
    """

    name: str
    kind: str
    unit: str
    x: Annotated[Floats, Shape("B")]
    value: Annotated[Floats, Shape("B")]
    error: Annotated[Floats, Shape("B")]  # NaN with a single trajectory
    references: dict[str, Annotated[Floats, Shape("B")]]
    likeness: dict[str, Likeness]


@record
class Coordination:
    """How many atoms of the second element stand around one of the first, up to `cutoff` Å, the first minimum of g."""

    name: str
    cutoff: float
    value: float
    error: float | None = None
    references: dict[str, float]


@record
class StructureResult:
    """Distributions of distances, angles and shapes in trajectories of the potential, beside references.

    `sampled` is the share of the planned frames that trajectories lived to give; references are named `reference
    trajectory` and `oracle`, with the number of their frames.
    """

    sampled_from: SampledFrom
    frames: int
    sampled: float
    references: dict[str, int]
    distributions: list[Distribution]
    coordination: list[Coordination]
    failures: list[FailedTrajectory]
    notes: list[str]
