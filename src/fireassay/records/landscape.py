"""What the landscape assay says."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from fireassay.records.typed import Floats, Shape, Unit, record


@record
class Entropy:
    """A loss entropy with a 95 % interval over the directions, and that of each direction (D,)."""

    value: float
    low: float | None
    high: float | None
    each: Annotated[Floats, Shape("D")]


@record
class Entropies:
    """Entropies of the energy and the force surface and their weighted sum; None without such labels."""

    energy: Entropy | None
    forces: Entropy | None
    total: Entropy | None


@record
class Plane:
    """Losses on a plane of the first two directions, Q x Q points at `t`; infinite where the model diverged."""

    t: Annotated[Floats, Shape("Q")]
    energy: Annotated[Floats, Unit("eV/atom"), Shape("Q", "Q")]
    forces: Annotated[Floats, Unit("eV/Å"), Shape("Q", "Q")]


@record
class Lines:
    """Losses along D directions of one normalisation at P points; infinite where the model diverged.

    `entropy` is the published sum over the points of the mean line, `entropy_integral` the grid-free form, and
    `integral_error` an estimate of how far the grid still decides it. `energy_of_temperature` and
    `forces_of_temperature` (K,) are the entropies with the temperature times each of `temperature_factor`.
    """

    cosine_max: float
    cosines: Annotated[Floats, Shape("D", "D")]
    energy: Annotated[Floats, Unit("eV/atom"), Shape("D", "P")]
    forces: Annotated[Floats, Unit("eV/Å"), Shape("D", "P")]
    entropy: Entropies
    entropy_integral: Entropies
    integral_error: float | None = None
    temperature_factor: Annotated[Floats, Shape("K")]
    energy_of_temperature: Annotated[Floats | None, Shape("K")] = None
    forces_of_temperature: Annotated[Floats | None, Shape("K")] = None
    plane: Plane | None = None


@record
class FrozenWeights:
    """Parameters that were not moved, and why."""

    name: str
    weights: int
    reason: str


@record
class LandscapeSetting:
    """What must be equal for two entropies to be compared."""

    n_directions: int
    points: int
    span: float
    seed: int
    frames: str  # fingerprint of the training frames that the loss was evaluated on
    temperature_energy: Annotated[float, Unit("eV/atom")]
    temperature_forces: Annotated[float, Unit("eV/Å")]
    alpha: float


@record
class LandscapeResult:
    """Lines by normalisation. `architecture` says what potentials must share for their entropies to be compared."""

    setting: LandscapeSetting
    architecture: str
    t: Annotated[Floats, Shape("P")]  # in units of the weights' norm
    lines: dict[str, Lines]
    minimum_energy: Annotated[float | None, Unit("eV/atom")]
    minimum_forces: Annotated[float | None, Unit("eV/Å")]
    flat_entropy: float  # of a loss that is zero everywhere
    n_weights: int  # moved
    n_frames: int
    frozen: list[FrozenWeights] = field(default_factory=list)
    twin: bool  # whether the frozen equivalent was evaluated
    grid_points_per_second: Annotated[float | None, Unit("1/s")] = None
