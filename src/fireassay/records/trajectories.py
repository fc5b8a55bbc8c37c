"""What assays on trajectories have in common."""

from __future__ import annotations

from typing import Annotated

from fireassay.records.typed import Unit, record


@record
class SampledFrom:
    """The trajectories of n atoms that were looked at: after `equilibration`, for `duration`."""

    start: str  # fingerprint
    n_atoms: int
    temperature: Annotated[float, Unit("K")]
    timestep: Annotated[float, Unit("fs")]
    equilibration: Annotated[float, Unit("fs")]
    duration: Annotated[float, Unit("fs")]
    thermostat: str
    replicas: int


@record
class Likeness:
    """How far a distribution is from a reference's, and how far the reference's two halves are from each other.

    `wright` and `r_chi` are of radial distribution functions only, in %; `wasserstein` is in the unit of the abscissa.
    An error is the standard error over trajectories, None with fewer than three. A `floor` is what the reference says
    of itself: below it nothing can be told.
    """

    wright: Annotated[float | None, Unit("%")] = None
    wright_error: Annotated[float | None, Unit("%")] = None
    wright_floor: Annotated[float | None, Unit("%")] = None
    r_chi: Annotated[float | None, Unit("%")] = None
    jensen_shannon: float
    jensen_shannon_error: float | None = None
    jensen_shannon_floor: float | None = None
    hellinger: float
    wasserstein: float
    wasserstein_error: float | None = None
    wasserstein_floor: float | None = None
