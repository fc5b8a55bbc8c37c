"""Made-up run directories, written through `fireassay.records` exactly as real runs write theirs.

The error levels are those of a small NequIP and a small MACE on 3-(benzyloxy)pyridin-2-amine; nothing here was
computed by a potential.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.records import AssayRecord, ErrorTrajectory, RunRecord, environment, load_assay, write_text
from fireassay.records.accuracy import AccuracyResult, Errors, SplitAccuracy
from fireassay.records.dynamics import Diffusivity, Displacement, DynamicsResult, Mean, Vibrations, Violation
from fireassay.records.landscape import Entropies, Entropy, LandscapeResult, LandscapeSetting, Lines
from fireassay.records.probes import Curve, Probe, ProbesResult, StepScan
from fireassay.records.run import BaselineRecord, DataRecord, IsolatedAtoms, TrainingRecord
from fireassay.records.stability import (
    Drift,
    FailedTrajectory,
    StabilityProtocol,
    StabilityResult,
    Start,
    SurvivalCurve,
    Times,
)
from fireassay.records.structure import Coordination, Distribution, StructureResult
from fireassay.records.trajectories import Likeness, SampledFrom
from fireassay.records.uncertainty import Calibration, Cost, Domain, Estimate, SplitUncertainty, UncertaintyResult
from fireassay.report.sections import KINDS
from fireassay.statistics.survival import kaplan_meier

FRAMES = "f00d5eed00000001"  # of the training frames
ASSAYS = ("metrics", "accuracy", "stability", "structure", "dynamics", "landscape", "probes", "uncertainty")
_MOLECULE = """
N 1.89 0.04 2.23; C 2.52 0.11 0.99; N 3.81 0.47 1.00; C 4.44 0.55 -0.19; C 3.84 0.28 -1.41; C 2.50 -0.07 -1.41
C 1.82 -0.13 -0.20; O 0.50 -0.52 -0.21; C -0.34 0.63 -0.06; C -1.78 0.16 -0.11; C -2.37 -0.17 -1.34
C -3.69 -0.62 -1.39; C -4.43 -0.74 -0.21; C -3.85 -0.41 1.01; C -2.53 0.03 1.06; H 2.61 0.16 2.93
H 1.40 -0.85 2.32; H 5.49 0.84 -0.14; H 4.40 0.35 -2.34; H 1.98 -0.30 -2.34; H -0.16 1.15 0.89; H -0.17 1.35 -0.87
H -1.79 -0.10 -2.26; H -4.14 -0.88 -2.34; H -5.46 -1.08 -0.25; H -4.43 -0.51 1.93; H -2.09 0.27 2.03
"""
_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}


@dataclass(frozen=True)
class Character:
    """How good a made-up potential is. Errors in eV/Å and eV/atom at 300 K, growth per doubling of temperature."""

    forces: float = 0.025
    energy: float = 0.0007
    growth: float = 0.75
    lifetime: float = 2500.0  # fs, mean of the exponential part
    sharpness: float = 1.0  # curvature of the loss landscape
    confidence: float = 0.8  # predicted over true error
    family: str = "nequip"
    splits: dict[str, float] = field(default_factory=lambda: {"300K": 300.0, "600K": 600.0, "1200K": 1200.0})
    frames: int = 100
    second_estimator: bool = True
    replicas: int = 30
    walkers: int = 0  # groups of frames; none without
    diverged: int = 0  # frames of each split without a finite prediction
    temperatures: bool = True  # whether the splits' are recorded
    seed: int = 0


NEQUIP = Character()
MACE = Character(forces=0.020, growth=0.62, lifetime=9000.0, sharpness=0.7, confidence=0.85, family="mace", seed=1)


def molecule() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atomic numbers (27,) and positions (27, 3) Å of 3-(benzyloxy)pyridin-2-amine, a coarse conformer."""
    rows = [row.split() for row in _MOLECULE.replace("\n", ";").split(";") if row.strip()]
    return np.array([_NUMBERS[row[0]] for row in rows]), np.array([[float(x) for x in row[1:]] for row in rows])


def crystal() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atomic numbers (32,) and positions (32, 3) Å of a Cu-Au solid solution."""
    corner = np.array(np.meshgrid(range(2), range(2), range(2))).reshape(3, -1).T[:, None, :]
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    positions = 3.8 * (corner + basis).reshape(-1, 3)
    return np.where(np.arange(32) % 3 == 0, 79, 29), positions


def write_run(
    folder: Path,
    character: Character = NEQUIP,
    assays: tuple[str, ...] = ASSAYS,
    atoms: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
) -> Path:
    """One run directory with the chosen subset of records."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(character.seed + 100)
    numbers, positions = atoms or molecule()
    RunRecord(
        name=folder.name,
        source="training",
        status="finished",
        weights=weights_of(character),
        seed=character.seed,
        architecture=character.family,
        data=DataRecord(
            fingerprint="eb5e34ac1fb485b0",
            train="3bpa-xtb/train_300K",
            frames=500,
            train_frames=FRAMES,
            validation_frames=50,
        ),
        baseline=BaselineRecord(
            e0=IsolatedAtoms(source="given", e0={"H": -10.7}, sentence="given for H, C, N and O"),
            scale={},
            shift={},
            average_neighbours=12.0,
        ),
        training=TrainingRecord(
            source="ema", finished="epochs", epochs=120, best_epoch=118, best={}, last={}, seconds=300.0
        ),
        provenance=environment(f"fireassay train {character.family}.yaml --output {folder.name}"),
    ).save(folder)
    if "metrics" in assays:
        _metrics(folder, character, rng)
        _errors(folder, rng, len(numbers))
    labels = _labels(character, numbers, positions)
    makers = {
        "accuracy": _accuracy,
        "stability": _stability,
        "structure": _structure,
        "dynamics": _dynamics,
        "landscape": _landscape,
        "probes": _probes,
        "uncertainty": _uncertainty,
    }
    for name, make in makers.items():
        if name in assays:
            make(folder, character, rng, labels)
    return folder


def write_study(folder: Path, assays: tuple[str, ...] = ASSAYS) -> list[Path]:
    """Two runs, `nequip` and `mace`, on the same frames."""
    return [write_run(folder / c.family, c, assays) for c in (NEQUIP, MACE)]


def _labels(
    character: Character, numbers: NDArray[np.int64], start: NDArray[np.float64]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Reference frames per split: the same for every character."""
    rng = np.random.default_rng(42)
    splits = {}
    for split, temperature in character.splits.items():
        shape = (character.frames, len(numbers), 3)
        forces = rng.normal(0, 0.95 * np.sqrt(temperature / 300), shape)
        forces -= forces.mean(1, keepdims=True)
        spread = 0.05 * np.sqrt(temperature / 300)
        splits[split] = {
            "forces": forces,
            "energy": -13500 + rng.normal(0.04 * len(numbers) * temperature / 300, 0.25 * temperature / 300, shape[0]),
            "positions": start + rng.normal(0, spread, shape),
            "numbers": np.tile(numbers, (shape[0], 1)),
        }
    return splits


def _force_errors(character: Character, temperature: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    rng = np.random.default_rng(character.seed + int(temperature))
    scale = character.forces * 2 ** (character.growth * np.log2(temperature / 300))
    difficulty = np.exp(0.4 * np.random.default_rng(7).normal(size=shape[1]))[None, :, None]
    frame = np.exp(0.25 * rng.normal(size=shape[0]))[:, None, None]
    return scale / 1.25 * difficulty * frame * rng.standard_t(6, shape)


def _errors_of(error: NDArray[np.float64]) -> dict[str, float]:
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "max": float(np.abs(error).max()),
    }


def _normalised(error: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    kinds = _errors_of(error)
    return {
        "mae_percent": 100 * kinds["mae"] / float(np.abs(reference).mean()),
        "rmse_percent": 100 * kinds["rmse"] / float(reference.std()),
    }


def _metrics(folder: Path, character: Character, rng: np.random.Generator, epochs: int = 120) -> None:
    epoch = np.arange(1, epochs + 1)
    shape = 1 + 25 * np.exp(-epoch / 9) + 4 * np.exp(-epoch / 35)
    rows = []
    for i, e in enumerate(epoch):
        noise = np.exp(0.05 * rng.normal(size=4))
        rows.append(
            {
                "epoch": int(e),
                "stage": 1 if e <= 90 else 2,
                "seconds": float(2.5 * e),
                "lr": 0.01 * 0.5 ** (e // 40),
                "loss": float(shape[i] ** 2),
                "train.energy_per_atom_mae": 0.8 * character.energy * shape[i] * noise[0] * (0.6 if e > 90 else 1),
                "train.energy_per_atom_rmse": character.energy * shape[i] * noise[0] * (0.6 if e > 90 else 1),
                "train.forces_mae": 0.5 * character.forces * shape[i] * noise[1],
                "train.forces_rmse": 0.75 * character.forces * shape[i] * noise[1],
                "validation.energy_per_atom_rmse": 1.2
                * character.energy
                * shape[i]
                * noise[2]
                * (0.6 if e > 90 else 1),
                "validation.forces_rmse": character.forces * shape[i] * noise[3],
                "validation.loss": float(1.2 * shape[i] ** 2),
            }
        )
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _errors(folder: Path, rng: np.random.Generator, n: int) -> None:
    record = ErrorTrajectory.empty(np.full(4, n))
    for _ in range(20):
        record.add(np.arange(4 * n), np.abs(rng.normal(0, 0.03, 4 * n)))
    record.save(folder / "errors.npz")


def _save(folder: Path, name: str, character: Character, settings: dict[str, Any], result: Any) -> None:
    command = f"fireassay assay {folder.name} {name}"
    frames = {"train": FRAMES} if name in ("landscape", "uncertainty") else {}
    AssayRecord(name, folder.name, weights_of(character), frames, settings, environment(command), result).save(
        folder / "assays"
    )


def weights_of(character: Character) -> str:
    """What stands for the fingerprint of the weights."""
    return f"w{character.family}{character.seed}"


def edit(folder: Path, assay: str, change: Callable[[Any], Any]) -> None:
    """Writes an assay's record with another result."""
    record = load_assay(folder / "assays" / f"{assay}.json", KINDS[assay])
    replace(record, result=change(record.result)).save(folder / "assays")


def _print(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def _quantity(error: NDArray[np.float64], reference: NDArray[np.float64]) -> Errors:
    known = np.isfinite(error)
    if not known.any():
        return Errors(n=0)
    kinds = _errors_of(error[known])
    return Errors(n=int(known.sum()), **kinds, **_normalised(error[known], reference[known]))


_SAMPLED = SampledFrom(
    start="5a3f", n_atoms=27, temperature=300.0, timestep=1.0, equilibration=1000.0, duration=5000.0,
    thermostat="rescaling", replicas=5,
)  # fmt: skip


def _structure(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    found = []
    for kind, name, unit, high in (
        ("rdf", "all", "Å", 10.0), ("rdf", "C-H", "Å", 10.0), ("angle", "H-C-H", "°", 180.0), ("bond", "C-H", "Å", 4.0),
        ("gyration", "R_g", "Å", 6.0),
    ):  # fmt: skip
        x = (np.arange(60) + 0.5) * high / 60
        theirs = np.exp(-0.5 * ((x - 0.4 * high) / (0.1 * high)) ** 2)
        ours = np.exp(-0.5 * ((x - 0.42 * high) / (0.1 * high)) ** 2)
        likeness = Likeness(wright=4.0, wright_error=0.5, wright_floor=1.0, r_chi=20.0, jensen_shannon=0.01,
                            jensen_shannon_floor=0.002, hellinger=0.1, wasserstein=0.02 * high)  # fmt: skip
        found.append(
            Distribution(name=name, kind=kind, unit=unit, x=x, value=ours, error=0.05 * ours,
                         references={"reference trajectory": theirs}, likeness={"reference trajectory": likeness})
        )  # fmt: skip
    result = StructureResult(
        sampled_from=_SAMPLED, frames=2500, sampled=0.95, references={"reference trajectory": 1000},
        distributions=found,
        coordination=[Coordination(name="C-H", cutoff=1.5, value=1.0, error=0.01, references={"oracle": 1.1})],
        failures=[], notes=["an example"],
    )  # fmt: skip
    _save(folder, "structure", character, {"stride": 10}, result)


def _dynamics(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    time = np.arange(0.0, 2500.0, 10.0)
    frequency = np.linspace(0.0, 120.0, 200)
    density = np.exp(-0.5 * ((frequency - 90) / 5) ** 2)
    names = {"reference trajectory": 0.9}
    violations = [
        Violation(reading=reading, time=time, energy=1e-5 + 0 * time, force=0.1 + time / 5000, energy_mean=1e-5,
                  cohesive_mean=1e-4, force_mean=0.3, decorrelation_time=900.0, frames=500)
        for reading in ("relabelled", "paired", "published")
    ]  # fmt: skip
    result = DynamicsResult(
        sampled_from=_SAMPLED, production="none", interval=10.0, sampled=1.0, references={"reference trajectory": 1000},
        displacements=[
            Displacement(name=name, time=time, value=1e-3 * time, error=1e-4 * time,
                         references={other: share * 1e-3 * time for other, share in names.items()})
            for name in ("C", "all")
        ],
        diffusivities=[Diffusivity(name="C", value=1.4e-5, error=2e-6, window_from=500.0, window_to=2000.0,
                                   references={"reference trajectory": 1.37e-5},
                                   reference_errors={"reference trajectory": None})],
        deviation_time=time, deviation=np.sqrt(time) / 20,
        deviation_references={"reference trajectory": np.sqrt(time) / 22},
        vibrations=Vibrations(time=time, autocorrelation=np.cos(time / 50), frequency=frequency, density=density,
                              references={"reference trajectory": density}, compared_to=100.0,
                              likeness={"reference trajectory": Likeness(jensen_shannon=0.0, hellinger=0.0,
                                                                         wasserstein=0.5)}),
        pressure=Mean(value=1.0, error=0.1, references={}), temperature=Mean(value=300.0, error=3.0, references={}),
        drift=0.01, fluctuation=0.05, violations=violations, failures=[], replica_steps_per_second=500.0,
        seconds_per_atom_step=1e-4, peak_memory=700.0, notes=[],
    )  # fmt: skip
    _save(folder, "dynamics", character, {"stride": 10}, result)


def _probes(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    x = np.linspace(0.3, 5.0, 40)
    wall = np.exp(-4 * (x - 1)) - 2 * np.exp(-2 * (x - 1))
    hole = np.where(x < 0.6, wall - 400 * (0.6 - x), wall)
    curves = [
        Curve(
            kind=kind, name=name, atoms=np.array([0, 1]), natural=1.0, distance=x, energy=energy,
            force=-np.gradient(energy, x), faults=["a hole behind 3 eV"] if k else [], fault_at=np.array([0.6] * k),
            flips=k, wall=40.0, hole=3.0 if k else None, tortuosity=1.0 + k,
        )
        for k, (kind, name, energy) in enumerate([("dimer", "C-H", wall), ("bond", "C1-H2", hole)])
    ]  # fmt: skip
    probes = [
        Probe(name="forces against energies", group="conservation", verdict="sound", sentence="they agree", value=1e-6,
              sound=2e-3, broken=1e-2),
        Probe(name="short-range wall", group="curves", verdict="broken", sentence="C-H falls in", meaning="it is hot",
              value=3.0, unit="eV"),
        Probe(name="bulk", group="bulk", verdict="not asked", sentence="the start is not periodic"),
    ]  # fmt: skip
    step = np.array([1e-3, 1e-2, 1e-1])
    scans = [StepScan(name="forces against energy differences", step=step, error=step**2 * (1 + rng.uniform(size=3)))]
    result = ProbesResult(
        start="ground_state.xyz frame 0", n_atoms=27, probes=probes, scans=scans, curves=curves, evaluations=1000,
        seconds=3.0,
    )  # fmt: skip
    _save(folder, "probes", character, {"points": 40}, result)


def _accuracy(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    splits: dict[str, SplitAccuracy] = {}
    slope = []
    for split, temperature in character.splits.items():
        truth = labels[split]
        error = _force_errors(character, temperature, truth["forces"].shape)
        s, n = error.shape[:2]
        energy_error = character.energy * n * (temperature / 300) ** character.growth * rng.normal(size=s)
        lost = np.arange(s) < character.diverged
        error[lost], energy_error[lost] = np.nan, np.nan
        reference = truth["forces"]
        centred = truth["energy"] - truth["energy"].mean()
        elements = {}
        for number, symbol in ((1, "H"), (6, "C"), (7, "N"), (8, "O"), (29, "Cu"), (79, "Au")):
            chosen = truth["numbers"] == number
            if chosen.any():
                elements[symbol] = _quantity(error[chosen], reference[chosen])
        groups = np.arange(s) * character.walkers // s if character.walkers else np.full(s, -1)
        splits[split] = SplitAccuracy(
            frames=s,
            not_finite=int(lost.sum()),
            fingerprint=_print(truth["positions"], reference, truth["energy"]),
            temperature=temperature if character.temperatures else None,
            energy=_quantity(energy_error, truth["energy"]),
            energy_per_atom=_quantity(energy_error / n, truth["energy"] / n),
            relative_energy=_quantity(energy_error - np.nanmean(energy_error), centred),
            forces=_quantity(error, reference),
            elements=elements,
            diverged=lost.astype(np.int64),
            group_names=[f"walker {k}" for k in range(character.walkers)],
            group=groups,
            energy_reference=truth["energy"],
            energy_predicted=truth["energy"] + energy_error,
            forces_reference=reference.reshape(-1, 3),
            forces_predicted=(reference + error).reshape(-1, 3),
            atomic_numbers=truth["numbers"].ravel(),
            structure=np.repeat(np.arange(s), n),
            positions=truth["positions"].reshape(-1, 3),
            cell=np.zeros((s, 3, 3)),
        )
        slope.append((temperature, splits[split].forces.rmse))
    found = None
    if len(slope) > 1 and all(rmse is not None for _, rmse in slope):
        found = float(np.polyfit(*np.array(slope, dtype=float).T, 1)[0])
    result = AccuracyResult(splits=splits, extrapolation_slope=found)
    _save(folder, "accuracy", character, {"batch_size": 32}, result)


def survival_curve(time: NDArray[np.float64], failed: NDArray[np.bool_], duration: float) -> SurvivalCurve:
    """The record of a Kaplan-Meier curve."""
    curve = kaplan_meier(time, failed)
    return SurvivalCurve(confidence=0.95, **curve._asdict(), median=curve.median, mean=curve.mean(duration))


def _stability(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    duration, replicas = 6000.0, character.replicas
    numbers, positions = (next(iter(labels.values()))[key][0] for key in ("numbers", "positions"))
    life = 150 + rng.exponential(character.lifetime, replicas)
    failed = life < duration
    time = np.minimum(np.round(life), duration)
    criteria = ("bond_length", "bond_length", "bond_length", "closest_approach")
    failures = [
        FailedTrajectory(
            replica=int(r),
            criterion=criteria[r % 4],
            atoms=[int(a) for a in rng.choice(len(numbers), 2, replace=False)],
            step=int(time[r]),
            time=float(time[r]),
            value=float(2 + 0.2 * rng.random()) if r % 4 < 3 else 0.48,
            limit=2.0 if r % 4 < 3 else 0.5,
            unit="Å",
        )
        for r in np.flatnonzero(failed)
    ]
    q25, median, q75 = np.percentile(time, [25, 50, 75])
    steps = np.arange(0, duration + 1, 50)
    warm = 1600 * (1 - 0.5 * np.exp(-steps / 250))[:, None] * (1 + 0.12 * rng.normal(size=(len(steps), replicas)))
    warm[steps[:, None] > time[None]] = np.nan
    last = positions + rng.normal(0, 0.1, (replicas, 5, len(numbers), 3))
    settings = {"temperature": 1600.0, "timestep": 1.0, "thermostat": "berendsen", "time_constant": 250.0}
    result = StabilityResult(
        protocol=StabilityProtocol(
            temperature=1600.0,
            timestep=1.0,
            duration=duration,
            thermostat="berendsen",
            criteria=["not_finite", "bond_length", "closest_approach", "temperature", "energy_jump"],
            settings=settings,
        ),
        start=Start(
            fingerprint=_print(numbers),
            atomic_numbers=numbers,
            positions=positions,
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
        ),
        time_to_failure=time,
        failed=failed,
        curve=survival_curve(time, failed, duration),
        times=Times(
            mean=float(time.mean()), std=float(time.std(ddof=1)), median=float(median), q25=float(q25), q75=float(q75)
        ),
        failures=failures,
        n_bonds=27,
        drift=Drift(
            rate=0.021,
            rate_half_step=0.004,
            fluctuation=0.41,
            fluctuation_half_step=0.103,
            fluctuation_ratio=3.98,
        ),
        replica_steps_per_second=312.0,
        time=steps,
        temperature=warm,
        potential_energy=-13500 + warm / 1600,
        last_frames=last,
        last_forces=rng.normal(0, 1, last.shape),
        last_steps=np.zeros(last.shape[:2], dtype=np.int64),
    )
    _save(folder, "stability", character, {**settings, "duration": duration, "replicas": replicas, "seed": 0}, result)


def _entropy(loss: NDArray[np.float64], scale: float, less: float = 0.0) -> Entropy:
    each = np.log(np.exp(-loss / scale).sum(1)) - less
    value = float(np.log(np.exp(-loss.mean(0) / scale).sum())) - less
    half = 2.1 * float(each.std(ddof=1)) / np.sqrt(len(each))
    return Entropy(value=value, low=value - half, high=value + half, each=each)


def _weighted(energy: Entropy, forces: Entropy) -> Entropies:
    def mixed(name: str) -> float:
        return 0.2 * getattr(energy, name) + 0.8 * getattr(forces, name)

    each = 0.2 * energy.each + 0.8 * forces.each
    total = Entropy(value=mixed("value"), low=mixed("low"), high=mixed("high"), each=each)
    return Entropies(energy=energy, forces=forces, total=total)


def _landscape(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    t = np.linspace(-0.25, 0.25, 81)
    factors = np.logspace(-2, 2, 41)
    lines = {}
    for norm, stretch in (("filter", 1.0), ("published", 1.6)):
        losses, entropies, integrals, swept = {}, {}, {}, {}
        for kind, minimum, curvature, scale in (
            ("energy", character.energy, 0.12, 0.004),
            ("forces", character.forces, 1.4, 0.040),
        ):
            bend = character.sharpness * stretch * curvature * np.exp(0.35 * rng.normal(size=(20, 1)))
            losses[kind] = loss = np.sqrt(minimum**2 + (bend * (np.abs(t) + 2 * t**2)) ** 2)
            entropies[kind] = _entropy(loss, scale)
            integrals[kind] = _entropy(loss, scale, np.log(160.0))
            swept[kind] = np.array([np.log(np.exp(-loss.mean(0) / (scale * f)).sum() + 1e-300) for f in factors])
        lines[norm] = Lines(
            cosine_max=0.002 if norm == "filter" else 0.97,
            cosines=np.eye(20),
            energy=losses["energy"],
            forces=losses["forces"],
            entropy=_weighted(entropies["energy"], entropies["forces"]),
            entropy_integral=_weighted(integrals["energy"], integrals["forces"]),
            temperature_factor=factors,
            energy_of_temperature=swept["energy"],
            forces_of_temperature=swept["forces"],
        )
    setting = LandscapeSetting(
        n_directions=20,
        points=81,
        span=0.25,
        seed=0,
        frames=FRAMES,
        temperature_energy=0.004,
        temperature_forces=0.040,
        alpha=0.2,
    )
    result = LandscapeResult(
        setting=setting,
        architecture=f"{character.family} l_max=2",
        t=t,
        lines=lines,
        minimum_energy=character.energy,
        minimum_forces=character.forces,
        flat_entropy=float(np.log(81)),
        n_weights=120000,
        n_frames=500,
        twin=True,
        grid_points_per_second=41.0,
    )
    settings = {"n_directions": 20, "points": 81, "span": 0.25, "normalisations": ["filter", "published"]}
    _save(folder, "landscape", character, settings, result)


def _near(value: float, reach: float) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach)


def _uncertainty(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    levels = np.linspace(0, 1, 41)
    splits = {}
    for split, temperature in character.splits.items():
        truth = labels[split]
        error = np.linalg.norm(_force_errors(character, temperature, truth["forces"].shape), axis=-1)
        wall = 6 * character.forces
        guess = character.confidence * np.sqrt(error * error.mean(0)) * np.exp(0.25 * rng.normal(size=error.shape))
        guess = wall * np.tanh(guess / wall)
        ratio = float(error.mean() / guess.mean())
        coverage = levels ** max(ratio, 0.5)
        gap = float(np.trapezoid(levels - coverage, levels))
        distance = 0.3 * temperature / 300 * np.exp(0.3 * rng.normal(size=error.shape))
        own = Calibration(
            mean_uncertainty=float(guess.mean()),
            area=_near(abs(gap), 0.004),
            over=max(gap, 0.0),
            under=max(-gap, 0.0),
            published=abs(gap) + 0.01,
            sharpness=float(0.6 * guess.mean()),
            nll=-2.1,
            crps=0.012,
            ence=0.31,
            pearson=_near(float(np.corrcoef(error.ravel(), guess.ravel())[0, 1]), 0.03),
            spearman=_near(float(_spearman(error.ravel(), guess.ravel())), 0.03),
            coverage=coverage,
            coverage_published=coverage,
            uncertainty=guess.ravel(),
        )
        estimators = {"published": own}
        if character.second_estimator:
            estimators["distance_aware"] = replace(
                own,
                area=_near(0.01, 0.004),
                over=0.01,
                under=0.0,
                mean_uncertainty=0.98 * float(error.mean()),
                coverage=levels**1.05,
                uncertainty=1.2 * guess.ravel(),
            )
        outside = distance > 0.55
        splits[split] = SplitUncertainty(
            frames=len(error),
            fingerprint=_print(truth["positions"], truth["forces"], truth["energy"]),
            units=30,
            units_by="block of 4 frames",
            not_finite=0,
            mean_error=float(error.mean()),
            estimators=estimators,
            domain=Domain(
                atoms=error.size,
                large=int((error > 0.1).sum()),
                outside=int(outside.sum()),
                outside_fraction=float(outside.mean()),
                auroc=_near(0.81, 0.05),
                auroc_uncertainty=_near(0.88, 0.05),
                recall=_near(0.64, 0.1),
            ),
            error=error.ravel(),
            distance=distance.ravel(),
            atomic_numbers=truth["numbers"].ravel(),
            structure=np.repeat(np.arange(len(error)), error.shape[1]),
            positions=truth["positions"].reshape(-1, 3),
        )
    result = UncertaintyResult(
        splits=splits,
        estimator="published",
        k=10,
        n_training_atoms=13500,
        training_frames=FRAMES,
        ood_cutoff=0.55,
        large_error=0.1,
        levels=levels,
        training_distances=np.linspace(0, 1, 50),
        cost=Cost(force=1.2e-3, search=1.7e-5, distribution=3e-5, share=0.014),
    )
    _save(folder, "uncertainty", character, {"k": 10, "index": "flat"}, result)


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])
