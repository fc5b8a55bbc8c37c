"""Made-up run directories, written through `fireassay.records` exactly as real runs write theirs.

The error levels are those of a small NequIP and a small MACE on 3-(benzyloxy)pyridin-2-amine; nothing here was
computed by a potential.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.records import AssayResult, ErrorTrajectory, Quantity, environment, write_json, write_text

ASSAYS = ("metrics", "accuracy", "stability", "landscape", "uncertainty")
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
    record = {
        "name": folder.name,
        "status": "finished",
        "seed": character.seed,
        "dtype": "float32",
        "data": {"fingerprint": "eb5e34ac1fb485b0", "train": "3bpa-xtb/train_300K", "frames": 500},
        "e0": {"sentence": "given for H, C, N and O"},
        "result": {"source": "ema", "finished": "epochs", "epochs": 120},
        "provenance": environment(f"fireassay train {character.family}.yaml --output {folder.name}"),
    }
    write_json(folder / "run.json", record)
    write_text(folder / "config.yaml", f"model:\n  type: {character.family}\n  l_max: 2\n")
    if "metrics" in assays:
        _metrics(folder, character, rng)
        _errors(folder, rng, len(numbers))
    labels = _labels(character, numbers, positions)
    makers = {"accuracy": _accuracy, "stability": _stability, "landscape": _landscape, "uncertainty": _uncertainty}
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


def _save(
    folder: Path,
    name: str,
    character: Character,
    settings: dict[str, Any],
    values: dict[str, Quantity],
    arrays: dict[str, NDArray[Any]],
    units: dict[str, str] | None = None,
) -> None:
    command = f"fireassay assay {name} {folder.name}"
    AssayResult(name, folder.name, settings, values, arrays, units or {}, environment(command)).save(folder / "assays")


def _accuracy(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    values: dict[str, Quantity] = {}
    arrays: dict[str, NDArray[Any]] = {}
    slope = []
    for split, temperature in character.splits.items():
        truth = labels[split]
        error = _force_errors(character, temperature, truth["forces"].shape)
        n = truth["forces"].shape[1]
        energy_error = character.energy * n * (temperature / 300) ** character.growth * rng.normal(size=len(error))
        groups = {
            "energy": (energy_error, truth["energy"], "eV"),
            "energy_per_atom": (energy_error / n, truth["energy"] / n, "eV/atom"),
            "relative_energy": (
                energy_error - energy_error.mean(),
                truth["energy"] - truth["energy"].mean(),
                "eV",
            ),
            "forces": (error, truth["forces"], "eV/Å"),
        }
        for number, symbol in ((1, "H"), (6, "C"), (7, "N"), (8, "O"), (29, "Cu"), (79, "Au")):
            chosen = truth["numbers"] == number
            if chosen.any():
                groups[f"forces.{symbol}"] = (error[chosen], truth["forces"][chosen], "eV/Å")
        for group, (e, reference, unit) in groups.items():
            for kind, value in _errors_of(e).items():
                values[f"{split}.{group}.{kind}"] = Quantity(value, unit)
            for kind, value in _normalised(e, reference).items():
                values[f"{split}.{group}.{kind}"] = Quantity(value, "%")
        values[f"{split}.frames"] = Quantity(len(error))
        values[f"{split}.temperature"] = Quantity(temperature, "K")
        slope.append((temperature, values[f"{split}.forces.rmse"].value))
        arrays |= {
            f"{split}.energy.reference": truth["energy"],
            f"{split}.energy.predicted": truth["energy"] + energy_error,
            f"{split}.forces.reference": truth["forces"].reshape(-1, 3),
            f"{split}.forces.predicted": (truth["forces"] + error).reshape(-1, 3),
            f"{split}.atomic_numbers": truth["numbers"].ravel(),
            f"{split}.structure": np.repeat(np.arange(len(error)), n),
            f"{split}.positions": truth["positions"].reshape(-1, 3),
        }
    if len(slope) > 1:
        values["extrapolation_slope"] = Quantity(float(np.polyfit(*np.array(slope).T, 1)[0]), "eV/Å/K")
    _save(folder, "accuracy", character, {"batch_size": 32}, values, arrays)


def _kaplan_meier(time: NDArray[np.float64], failed: NDArray[np.bool_], duration: float) -> dict[str, NDArray[Any]]:
    order = np.unique(time[failed])
    at_risk = np.array([(time >= t).sum() for t in order])
    deaths = np.array([((time == t) & failed).sum() for t in order])
    survival = np.cumprod(1 - deaths / at_risk)
    error = survival * np.sqrt(np.cumsum(deaths / np.maximum(at_risk * (at_risk - deaths), 1)))
    grid = np.concatenate([[0.0], order, [duration]])
    middle = np.concatenate([[1.0], survival, survival[-1:] if len(survival) else [1.0]])
    half = 1.96 * np.concatenate([[0.0], error, error[-1:] if len(error) else [0.0]])
    return {
        "kaplan_meier.time": grid,
        "kaplan_meier.survival": middle,
        "kaplan_meier.lower": np.clip(middle - half, 0, 1),
        "kaplan_meier.upper": np.clip(middle + half, 0, 1),
    }


def _stability(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    duration, replicas = 6000.0, 30
    numbers, positions = (next(iter(labels.values()))[key][0] for key in ("numbers", "positions"))
    life = 150 + rng.exponential(character.lifetime, replicas)
    failed = life < duration
    time = np.minimum(np.round(life), duration)
    criteria = ("bond_length", "bond_length", "bond_length", "closest_approach")
    failures = [
        {
            "replica": int(r),
            "criterion": criteria[r % 4],
            "atoms": [int(a) for a in rng.choice(len(numbers), 2, replace=False)],
            "time": float(time[r]),
            "value": float(2 + 0.2 * rng.random()) if r % 4 < 3 else 0.48,
            "limit": 2.0 if r % 4 < 3 else 0.5,
            "unit": "Å",
        }
        for r in np.flatnonzero(failed)
    ]
    q25, median, q75 = np.percentile(time, [25, 50, 75])
    values = {
        "survival_fraction": Quantity(float(1 - failed.mean())),
        "n_replicas": Quantity(replicas),
        "duration": Quantity(duration, "fs"),
        "time_to_failure.mean": Quantity(float(time.mean()), "fs"),
        "time_to_failure.std": Quantity(float(time.std()), "fs"),
        "time_to_failure.median": Quantity(float(median), "fs"),
        "time_to_failure.q25": Quantity(float(q25), "fs"),
        "time_to_failure.q75": Quantity(float(q75), "fs"),
        "failures": Quantity(failures),
        "replica_steps_per_second": Quantity(312.0, "1/s"),
        "median_survival": Quantity(float(median) if failed.mean() > 0.5 else None, "fs"),
        "criteria": Quantity(["not_finite", "bond_length", "closest_approach", "temperature", "energy_jump"]),
        "drift.rate": Quantity(0.021, "meV/atom/ps"),
        "drift.rate_half_step": Quantity(0.004, "meV/atom/ps"),
        "drift.fluctuation": Quantity(0.41, "meV/atom"),
        "drift.fluctuation_half_step": Quantity(0.103, "meV/atom"),
        "drift.fluctuation_ratio": Quantity(3.98),
    }
    for name in {f["criterion"] for f in failures}:
        values[f"failures.{name}"] = Quantity(sum(f["criterion"] == name for f in failures))
    steps = np.arange(0, duration + 1, 50)
    warm = 1600 * (1 - 0.5 * np.exp(-steps / 250))[:, None] * (1 + 0.12 * rng.normal(size=(len(steps), replicas)))
    warm[steps[:, None] > time[None]] = np.nan
    last = positions + rng.normal(0, 0.1, (replicas, 5, len(numbers), 3))
    arrays = {
        "time_to_failure": time,
        "failed": failed,
        **_kaplan_meier(time, failed, duration),
        "time": steps,
        "temperature": warm,
        "potential_energy": -13500 + warm / 1600,
        "atomic_numbers": numbers,
        "last_frames": last,
        "last_forces": rng.normal(0, 1, last.shape),
    }
    settings = {
        "temperature": 1600.0,
        "timestep": 1.0,
        "duration": duration,
        "replicas": replicas,
        "thermostat": "berendsen",
        "time_constant": 250.0,
        "seed": 0,
    }
    _save(folder, "stability", character, settings, values, arrays)


def _landscape(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    t = np.linspace(-0.25, 0.25, 81)
    values = {
        "minimum.energy": Quantity(character.energy, "eV/atom"),
        "minimum.forces": Quantity(character.forces, "eV/Å"),
        "flat_entropy": Quantity(float(np.log(81))),
        "grid_points_per_second": Quantity(41.0, "1/s"),
    }
    arrays: dict[str, NDArray[Any]] = {"t": t}
    for norm, stretch in (("filter", 1.0), ("published", 1.6)):
        entropies = {}
        for kind, minimum, curvature, scale in (
            ("energy", character.energy, 0.12, 0.004),
            ("forces", character.forces, 1.4, 0.040),
        ):
            bend = character.sharpness * stretch * curvature * np.exp(0.35 * rng.normal(size=(20, 1)))
            loss = np.sqrt(minimum**2 + (bend * (np.abs(t) + 2 * t**2)) ** 2)
            arrays[f"{norm}.{kind}"] = loss
            entropies[kind] = float(np.log(np.exp(-loss.mean(0) / scale).sum()))
            arrays["temperature_factor"] = np.logspace(-2, 2, 41)
            arrays[f"{norm}.entropy_of_temperature.{kind}"] = np.array(
                [np.log(np.exp(-loss.mean(0) / (scale * f)).sum() + 1e-300) for f in arrays["temperature_factor"]]
            )
        total = 0.2 * entropies["energy"] + 0.8 * entropies["forces"]
        for kind, value in (entropies | {"total": total}).items():
            values[f"{norm}.entropy.{kind}"] = Quantity(value)
            values[f"{norm}.entropy_integral.{kind}"] = Quantity(value - np.log(160.0))
        arrays[f"{norm}.cosines"] = np.eye(20)
        values[f"{norm}.cosine_max"] = Quantity(0.002 if norm == "filter" else 0.97)
    settings = {
        "n_directions": 20,
        "points": 81,
        "span": 0.25,
        "normalisations": ["filter", "published"],
        "temperature_energy": 0.004,
        "temperature_forces": 0.040,
        "alpha": 0.2,
        "seed": 0,
    }
    _save(folder, "landscape", character, settings, values, arrays)


def _uncertainty(folder: Path, character: Character, rng: np.random.Generator, labels: dict[str, Any]) -> None:
    levels = np.linspace(0, 1, 41)
    values: dict[str, Quantity] = {}
    arrays: dict[str, NDArray[Any]] = {"levels": levels}
    for split, temperature in character.splits.items():
        truth = labels[split]
        error = np.linalg.norm(_force_errors(character, temperature, truth["forces"].shape), axis=-1)
        wall = 6 * character.forces
        guess = character.confidence * np.sqrt(error * error.mean(0)) * np.exp(0.25 * rng.normal(size=error.shape))
        guess = wall * np.tanh(guess / wall)
        ratio = float(error.mean() / guess.mean())
        coverage = levels ** max(ratio, 0.5)
        gap = np.trapezoid(levels - coverage, levels)
        distance = 0.3 * temperature / 300 * np.exp(0.3 * rng.normal(size=error.shape))
        numbers = {
            "mean_error": (float(error.mean()), "eV/Å"),
            "mean_uncertainty": (float(guess.mean()), "eV/Å"),
            "area_over": (float(max(gap, 0)), ""),
            "area_under": (float(max(-gap, 0)), ""),
            "area": (float(abs(gap)), ""),
            "sharpness": (float(0.6 * guess.mean()), "eV/Å"),
            "pearson": (float(np.corrcoef(error.ravel(), guess.ravel())[0, 1]), ""),
            "spearman": (float(_spearman(error.ravel(), guess.ravel())), ""),
            "nll": (-2.1, ""),
            "crps": (0.012, "eV/Å"),
            "ence": (0.31, ""),
            "ood_fraction": (float((distance > 0.55).mean()), ""),
            "auroc": (0.81, ""),
            "recall": (0.64, ""),
        }
        values |= {f"{split}.{name}": Quantity(*pair) for name, pair in numbers.items()}
        if character.second_estimator:
            shared = [name for name in numbers if name not in ("ood_fraction", "auroc", "recall")]
            values |= {f"{split}.distance_aware.{name}": Quantity(*numbers[name]) for name in shared}
            values[f"{split}.distance_aware.area"] = values[f"{split}.distance_aware.area_over"] = Quantity(0.01)
            values[f"{split}.distance_aware.mean_uncertainty"] = Quantity(0.98 * float(error.mean()), "eV/Å")
            arrays[f"{split}.distance_aware.coverage"] = levels**1.05
            arrays[f"{split}.distance_aware.uncertainty"] = 1.2 * guess.ravel()
        arrays |= {
            f"{split}.uncertainty": guess.ravel(),
            f"{split}.error": error.ravel(),
            f"{split}.distance": distance.ravel(),
            f"{split}.atomic_numbers": truth["numbers"].ravel(),
            f"{split}.structure": np.repeat(np.arange(len(error)), error.shape[1]),
            f"{split}.positions": truth["positions"].reshape(-1, 3),
            f"{split}.coverage": coverage,
        }
    values |= {
        "estimator": Quantity("published"),
        "ood_cutoff": Quantity(0.55),
        "n_training_atoms": Quantity(13500),
        "k": Quantity(10),
        "search_seconds_per_atom": Quantity(1.7e-5, "s"),
        "force_seconds_per_atom": Quantity(1.2e-3, "s"),
        "cost_share": Quantity(0.014),
    }
    _save(folder, "uncertainty", character, {"k": 10, "index": "flat"}, values, arrays)


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])
