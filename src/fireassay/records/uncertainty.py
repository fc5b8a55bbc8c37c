"""What the uncertainty assay says."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from fireassay.records.typed import Floats, Integers, Shape, Unit, record


@record
class Estimate:
    """A number with its 95 % interval, resampled by independent units of frames; None where there are too few."""

    value: float
    low: float | None = None
    high: float | None = None


@record
class Calibration:
    """How one estimator does on one split of N atoms, at L confidence levels.

    `over` is A+ (overconfident), `under` A- (underconfident), `area` their sum, with thresholds between the edges of
    the bins; `published` the sum with thresholds on the edges. `coverage` (L,) belongs to `area`.
    """

    mean_uncertainty: Annotated[float, Unit("eV/Å")]
    area: Estimate
    over: float
    under: float
    published: float
    sharpness: Annotated[float, Unit("eV/Å")]
    nll: float
    crps: Annotated[float, Unit("eV/Å")]
    ence: float
    pearson: Estimate
    spearman: Estimate
    coverage: Annotated[Floats, Shape("L")]
    coverage_published: Annotated[Floats, Shape("L")]
    uncertainty: Annotated[Floats, Unit("eV/Å"), Shape("N")]


@record
class Domain:
    """Does the distance to the training atoms tell where large errors are? `large` of `atoms` atoms have one.

    `recall` is the share of the large errors that lie out of domain; None where there is no large error.
    """

    atoms: int
    large: int
    outside: int  # atoms out of domain
    outside_fraction: float
    auroc: Estimate | None = None  # of the distance
    auroc_uncertainty: Estimate | None = None
    recall: Estimate | None = None


@record
class SplitUncertainty:
    """One split: S frames with N atoms; in `error` an atom without a label is NaN, one without a finite force inf."""

    frames: int
    fingerprint: str
    units: int  # independent units that the intervals rest on
    units_by: str  # what a unit is
    not_finite: int  # atoms without a finite force
    mean_error: Annotated[float | None, Unit("eV/Å")]  # over finite forces
    estimators: dict[str, Calibration]
    domain: Domain
    error: Annotated[Floats, Unit("eV/Å"), Shape("N")]
    distance: Annotated[Floats, Shape("N")]  # in descriptor space
    atomic_numbers: Annotated[Integers, Shape("N")]
    structure: Annotated[Integers, Shape("N")]
    positions: Annotated[Floats, Unit("Å"), Shape("N", 3)]


@record
class Cost:
    """Seconds per atom of a force call and of LTAU on the same batch."""

    force: Annotated[float, Unit("s")]
    search: Annotated[float, Unit("s")]  # for the expected error alone
    distribution: Annotated[float, Unit("s")]
    share: float  # search over force


@record
class UncertaintyResult:
    """Splits by name; `estimator` is the one that the potential uses, `refused` says why a split was not judged."""

    splits: dict[str, SplitUncertainty]
    refused: dict[str, str] = field(default_factory=dict)
    estimator: str
    k: int
    n_training_atoms: int
    training_frames: str  # fingerprint
    ood_cutoff: float
    large_error: Annotated[float, Unit("eV/Å")]
    distance_exponent: float | None = None
    levels: Annotated[Floats, Shape("L")]
    training_distances: Annotated[Floats, Shape("A")]  # ascending
    cost: Annotated[Cost, Unit("s")]
