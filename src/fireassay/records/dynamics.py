"""What the dynamics assay says."""

from __future__ import annotations

from typing import Annotated

from fireassay.records.stability import FailedTrajectory
from fireassay.records.trajectories import Likeness, SampledFrom
from fireassay.records.typed import Floats, Shape, Unit, record


@record
class Displacement:
    """Mean squared displacements of one element's atoms, or of `all`, at L times; the references' on the same times.

    `error` is the standard error over trajectories; NaN with one, and beyond the end of a reference.
    """

    name: str
    time: Annotated[Floats, Unit("fs"), Shape("L")]
    value: Annotated[Floats, Unit("Å^2"), Shape("L")]
    error: Annotated[Floats, Unit("Å^2"), Shape("L")]
    references: Annotated[dict[str, Annotated[Floats, Shape("L")]], Unit("Å^2")]


@record
class Diffusivity:
    """D of one element's atoms by the slope between `window_from` and `window_to`; errors over independent parts."""

    name: str
    value: Annotated[float, Unit("cm^2/s")]
    error: Annotated[float | None, Unit("cm^2/s")] = None
    window_from: Annotated[float, Unit("fs")]
    window_to: Annotated[float, Unit("fs")]
    references: Annotated[dict[str, float], Unit("cm^2/s")]
    reference_errors: Annotated[dict[str, float | None], Unit("cm^2/s")]


@record
class Vibrations:
    """The mass-weighted velocity autocorrelation at L times, and its spectrum at F frequencies, integrating to 1.

    The references' spectra are interpolated to the same frequencies; `likeness` compares them up to `compared_to`,
    where all of them say something; `wasserstein` is in THz.
    """

    time: Annotated[Floats, Unit("fs"), Shape("L")]
    autocorrelation: Annotated[Floats, Shape("L")]
    frequency: Annotated[Floats, Unit("THz"), Shape("F")]
    density: Annotated[Floats, Unit("1/THz"), Shape("F")]
    references: Annotated[dict[str, Annotated[Floats, Shape("F")]], Unit("1/THz")]
    likeness: dict[str, Likeness]
    compared_to: Annotated[float | None, Unit("THz")] = None


@record
class Mean:
    """A mean over trajectories with its standard error; the references' means."""

    value: float
    error: float | None = None
    references: dict[str, float]


@record
class Violation:
    """Energy and force violation against an oracle, EGraFFBench eq. 4 and 5, at T times, averaged over trajectories.

    `reading` is relabelled: the oracle's energies and forces of the frames that the potential visited; paired: those
    of the oracle's own trajectory from the same start and velocities at the same time; or published: the labels of the
    reference trajectory, frame by frame, as in EGraFFBench's code. Geometric means are over all frames. `energy` takes
    energies as they are; `cohesive` less the oracle's of the isolated atoms.
    """

    reading: str
    time: Annotated[Floats, Unit("fs"), Shape("T")]
    energy: Annotated[Floats, Shape("T")]
    force: Annotated[Floats, Shape("T")]
    energy_mean: float
    cohesive_mean: float | None = None
    force_mean: float
    decorrelation_time: Annotated[float | None, Unit("fs")] = None  # when the force violation reaches 0.7
    frames: int = 0
    failed: int = 0  # calculations of the oracle


@record
class DynamicsResult:
    """How atoms move in trajectories of the potential, beside references."""

    sampled_from: SampledFrom
    production: str  # the thermostat of what was looked at; none is constant energy
    interval: Annotated[float, Unit("fs")]  # between frames
    sampled: float  # share of the planned time that trajectories lived
    references: dict[str, int]  # frames by name
    displacements: list[Displacement]
    diffusivities: list[Diffusivity]
    deviation_time: Annotated[Floats, Unit("fs"), Shape("T")]
    deviation: Annotated[Floats, Unit("Å"), Shape("T")]  # RMSD from the start of the production, mean of trajectories
    deviation_references: Annotated[dict[str, Annotated[Floats, Shape("T")]], Unit("Å")]  # NaN beyond their end
    vibrations: Vibrations | None = None
    pressure: Annotated[Mean | None, Unit("GPa")] = None
    temperature: Annotated[Mean, Unit("K")]
    drift: Annotated[float | None, Unit("meV/atom/ps")] = None  # of the total energy, at constant energy
    fluctuation: Annotated[float | None, Unit("meV/atom")] = None
    molecular_fraction: float | None = None  # of hydrogen: atoms in molecules that last
    violations: list[Violation]
    failures: list[FailedTrajectory]
    replica_steps_per_second: Annotated[float, Unit("1/s")]
    seconds_per_atom_step: Annotated[float, Unit("s")]
    peak_memory: Annotated[float | None, Unit("MB")] = None
    notes: list[str]
