"""What the stability assay says."""

from __future__ import annotations

from typing import Annotated, Any

from fireassay.records.typed import Flags, Floats, Integers, Shape, Unit, record


@record
class StabilityProtocol:
    """What decides when a trajectory fails. Survival of two potentials is compared only under an equal protocol.

    `criteria` are the names of those that were looked at, `settings` all settings of the assay that have a say.
    """

    temperature: Annotated[float, Unit("K")]
    timestep: Annotated[float, Unit("fs")]
    duration: Annotated[float, Unit("fs")]
    thermostat: str
    criteria: list[str]
    settings: dict[str, Any]


@record
class Start:
    """Where the trajectories of n atoms began, as given, before any relaxation."""

    fingerprint: str
    atomic_numbers: Annotated[Integers, Shape("n")]
    positions: Annotated[Floats, Unit("Å"), Shape("n", 3)]
    cell: Annotated[Floats, Unit("Å"), Shape(3, 3)]
    pbc: Annotated[Flags, Shape(3)]
    relaxed: bool | None = None  # whether the relaxation converged; None without one
    largest_force: Annotated[float | None, Unit("eV/Å")] = None  # after the relaxation


@record
class FailedTrajectory:
    """Why one trajectory ended: the limit, the value that broke it, both in `unit`, and the atoms that did."""

    replica: int
    criterion: str
    atoms: list[int]
    step: int
    time: Annotated[float, Unit("fs")]
    value: float
    limit: float
    unit: str
    message: str = ""


@record
class Times:
    """Times to failure, in fs; a survivor counts as failing at the end, so that these are lower bounds."""

    mean: float
    std: float | None  # of the sample
    median: float
    q25: float
    q75: float


@record
class SurvivalCurve:
    """Kaplan-Meier: after `time` the share `survival` is alive, until the next; pointwise band at `confidence`."""

    confidence: float
    time: Annotated[Floats, Unit("fs"), Shape("K")]
    survival: Annotated[Floats, Shape("K")]
    lower: Annotated[Floats, Shape("K")]
    upper: Annotated[Floats, Shape("K")]
    median: Annotated[float | None, Unit("fs")] = None
    mean: Annotated[float | None, Unit("fs")] = None  # restricted to the duration


@record
class Drift:
    """The total energy at constant energy: slope, and root mean square about it, at the time step and at half of it."""

    rate: Annotated[float | None, Unit("meV/atom/ps")]
    rate_half_step: Annotated[float | None, Unit("meV/atom/ps")]
    fluctuation: Annotated[float | None, Unit("meV/atom")]
    fluctuation_half_step: Annotated[float | None, Unit("meV/atom")]
    fluctuation_ratio: float | None  # 4 for a smooth potential


@record
class StabilityResult:
    """R trajectories of n atoms, watched at T times, with the last F frames of each; NaN after a failure."""

    protocol: StabilityProtocol
    start: Start
    time_to_failure: Annotated[Floats, Unit("fs"), Shape("R")]
    failed: Annotated[Flags, Shape("R")]
    curve: SurvivalCurve
    times: Annotated[Times, Unit("fs")]
    failures: list[FailedTrajectory]
    n_bonds: int | None = None  # followed in each trajectory
    drift: Drift | None = None
    replica_steps_per_second: Annotated[float | None, Unit("1/s")] = None
    integrator_share: float | None = None  # of the time, everything but the potential
    neighbour_rebuilds: int = 0
    time: Annotated[Floats, Unit("fs"), Shape("T")]
    temperature: Annotated[Floats, Unit("K"), Shape("T", "R")]
    potential_energy: Annotated[Floats, Unit("eV"), Shape("T", "R")]
    last_frames: Annotated[Floats, Unit("Å"), Shape("R", "F", "n", 3)]
    last_forces: Annotated[Floats, Unit("eV/Å"), Shape("R", "F", "n", 3)]
    last_steps: Annotated[Integers, Shape("R", "F")]
