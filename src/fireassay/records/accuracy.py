"""What the accuracy assay says."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from fireassay.records.typed import Floats, Integers, Shape, Unit, record


@record
class Errors:
    """Errors of one quantity over what has a label and a finite prediction, in the unit of the field that holds them.

    `mae_percent` and `max_percent` are divided by the mean absolute reference, `rmse_percent` by its standard deviation
    (TEA Challenge 2023, Tables SI 7 and SI 8); None where that scale is zero, or where it has no meaning. All are None
    when no prediction is finite.
    """

    n: int  # values compared
    mae: float | None = None
    rmse: float | None = None
    max: float | None = None
    mae_percent: Annotated[float | None, Unit("%")] = None
    rmse_percent: Annotated[float | None, Unit("%")] = None
    max_percent: Annotated[float | None, Unit("%")] = None
    rmse_percent_of_mean: Annotated[float | None, Unit("%")] = None
    mae_percent_of_deviation: Annotated[float | None, Unit("%")] = None


@record
class GroupErrors:
    """Errors of the frames with one group label; `molecule_force` is F(mol), that of the molecules in them."""

    frames: int
    energy_per_atom: Annotated[Errors | None, Unit("eV/atom")] = None
    forces: Annotated[Errors | None, Unit("eV/Å")] = None
    molecule_force: Annotated[Errors | None, Unit("eV/Å")] = None


@record
class FailedFrame:
    """A frame for which a calculation failed, and what the calculator said."""

    frame: int
    message: str


@record
class SplitAccuracy:
    """Errors on the frames of one split: S frames with N atoms in all.

    Errors are over finite predictions; `diverged` (S,) marks the frames with one that is not, which count against the
    potential. `net_force` is the sum of the forces on all atoms of a frame; `molecule_force` is F(mol) of the TEA
    Challenge, that on each molecule (connected component) of a frame, None where every frame is one molecule.
    In `*_reference` a missing label is NaN.
    """

    frames: int
    not_finite: int  # frames without a finite prediction
    fingerprint: str  # of the frames and their labels
    temperature: Annotated[float | None, Unit("K")] = None
    energy: Annotated[Errors | None, Unit("eV")] = None
    energy_per_atom: Annotated[Errors | None, Unit("eV/atom")] = None
    relative_energy: Annotated[Errors | None, Unit("eV")] = None
    forces: Annotated[Errors | None, Unit("eV/Å")] = None
    stress: Annotated[Errors | None, Unit("eV/Å^3")] = None
    net_force: Annotated[Errors | None, Unit("eV/Å")] = None
    molecule_force: Annotated[Errors | None, Unit("eV/Å")] = None
    molecules: Annotated[dict[str, Errors], Unit("eV/Å")] = field(default_factory=dict)  # F(mol) by formula
    elements: Annotated[dict[str, Errors], Unit("eV/Å")] = field(default_factory=dict)  # of the forces, by symbol
    groups: dict[str, GroupErrors] = field(default_factory=dict)
    failed: list[FailedFrame] = field(default_factory=list)
    diverged: Annotated[Integers, Shape("S")]  # 0 or 1
    group_names: list[str]
    group: Annotated[Integers, Shape("S")]  # index into group_names, -1 without one
    energy_reference: Annotated[Floats, Unit("eV"), Shape("S")]
    energy_predicted: Annotated[Floats, Unit("eV"), Shape("S")]
    forces_reference: Annotated[Floats, Unit("eV/Å"), Shape("N", 3)]
    forces_predicted: Annotated[Floats, Unit("eV/Å"), Shape("N", 3)]
    stress_reference: Annotated[Floats | None, Unit("eV/Å^3"), Shape("S", 3, 3)] = None
    stress_predicted: Annotated[Floats | None, Unit("eV/Å^3"), Shape("S", 3, 3)] = None
    atomic_numbers: Annotated[Integers, Shape("N")]
    structure: Annotated[Integers, Shape("N")]  # the frame of each atom, ascending
    positions: Annotated[Floats, Unit("Å"), Shape("N", 3)]
    cell: Annotated[Floats, Unit("Å"), Shape("S", 3, 3)]


@record
class EnergyZero:
    """Energies added to the predictions per element before energies were compared, fitted to the training frames."""

    frames: int  # that it was fitted to
    rank: int
    condition: float
    shift: Annotated[dict[str, float], Unit("eV")]  # by symbol


@record
class AccuracyResult:
    """Errors by split. `refused` says, by split, why the potential cannot judge it; `notes` what else was met."""

    splits: dict[str, SplitAccuracy]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    energy_zero: Literal["none", "fit"] = "none"
    fitted_zero: EnergyZero | None = None
    extrapolation_slope: Annotated[float | None, Unit("eV/Å/K")] = None
