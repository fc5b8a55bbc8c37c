"""What the probes say."""

from __future__ import annotations

from typing import Annotated, Literal

from fireassay.records.typed import Floats, Integers, Shape, Unit, record

Verdict = Literal["sound", "doubtful", "broken", "not asked"]


@record
class Probe:
    """One question: the number that answers it, sound up to the first limit, broken beyond the second.

    A probe without limits only informs. `sentence` says what was found, `meaning` what it means in practice.
    """

    name: str
    group: str
    verdict: Verdict
    sentence: str
    meaning: str = ""
    value: float | None = None
    unit: str = ""
    sound: float | None = None
    broken: float | None = None


@record
class StepScan:
    """Errors of differences by their step: where they fall with it the step was too long, where they rise it is noise.

    `step` is in Å for positions and a number for strains; errors are relative.
    """

    name: str
    step: Annotated[Floats, Shape("H")]
    error: Annotated[Floats, Shape("H")]


@record
class Curve:
    """Energies, relative to the last point of a dimer and to the start elsewhere, and forces along a path.

    `kind` is dimer, bond or pulled atom; `natural` is the usual length (the sum of covalent radii, or the start's).
    Forces are along the path: positive ones push it on. `oracle` holds the oracle's energies.
    """

    kind: str
    name: str
    atoms: Annotated[Integers, Shape("A")]
    natural: Annotated[float, Unit("Å")]
    distance: Annotated[Floats, Unit("Å"), Shape("K")]
    energy: Annotated[Floats, Unit("eV"), Shape("K")]
    force: Annotated[Floats, Unit("eV/Å"), Shape("K")]
    faults: list[str]
    fault_at: Annotated[Floats, Unit("Å"), Shape("P")]
    flips: int  # of the force's sign beyond the one at the minimum
    wall: Annotated[float | None, Unit("eV")] = None  # the shortest distance above the far end
    hole: Annotated[float | None, Unit("eV")] = None  # what it takes to fall in, above the minimum; None without a hole
    jump: Annotated[float | None, Unit("eV")] = None  # the largest step of the energy that no force explains
    tortuosity: float | None = None  # the energy's way over the shortest one, 1 for one minimum
    oracle: Annotated[Floats | None, Unit("eV"), Shape("K")] = None


@record
class Bulk:
    """A crystal with relaxed atoms: energies at V volumes, moduli, and modes of vibration of the cell."""

    volume: Annotated[Floats, Unit("Å^3"), Shape("V")]
    energy: Annotated[Floats, Unit("eV"), Shape("V")]
    bulk_modulus: Annotated[float | None, Unit("GPa")] = None
    elastic: Annotated[Floats | None, Unit("GPa"), Shape(6, 6)] = None  # Voigt order, engineering strains
    frequencies: Annotated[Floats | None, Unit("THz"), Shape("M")] = None  # imaginary ones negative


@record
class ProbesResult:
    """The probes of one potential at one start."""

    start: str
    n_atoms: int
    probes: list[Probe]
    scans: list[StepScan]
    curves: list[Curve]
    bulk: Bulk | None = None
    evaluations: int = 0  # of single structures
    seconds: Annotated[float, Unit("s")] = 0.0
