"""How often the verdict trusts one of two potentials that are equally good: as rarely as it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fireassay.records import AssayRecord, environment
from fireassay.records.accuracy import AccuracyResult, Errors, SplitAccuracy
from fireassay.records.landscape import Entropy
from fireassay.records.run import RunRecord
from fireassay.records.stability import StabilityProtocol, StabilityResult, Start, Times
from fireassay.report.runs import Run
from fireassay.report.study import Study
from fireassay.report.verdict import verdict
from fireassay.report.verdict.confidence import largest
from report.synthetic import survival_curve

ATOMS = 5
PAIRS = 500
ENVIRONMENT = environment("fireassay")
SPLITS = ("300K", "600K", "1200K")


def autoregressive(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    x = rng.normal(size=n)
    for k in range(1, n):
        x[k] = phi * x[k - 1] + np.sqrt(1 - phi**2) * x[k]
    return x


def sizes(rng: np.random.Generator, frames: int, walkers: int, phi: float) -> np.ndarray:
    """The size of the errors of each frame: what walkers differ in, and what a walker keeps for some time."""
    parts = np.array_split(np.arange(frames), max(walkers, 1))
    series = [autoregressive(rng, len(p), phi) + (rng.normal() if walkers else 0.0) for p in parts]
    return np.exp(0.3 * np.concatenate(series))


def split_of(rng, common: np.ndarray, frames: int, walkers: int, phi: float, tail: float) -> SplitAccuracy:
    scale = common * sizes(rng, frames, walkers, phi)
    error = scale[:, None, None] * rng.standard_t(tail, (frames, ATOMS, 3))
    energy = scale * rng.normal(size=frames)
    rmse = float(np.sqrt(np.mean(error**2)))
    group = np.arange(frames) * walkers // frames if walkers else np.full(frames, -1)
    return SplitAccuracy(
        frames=frames,
        not_finite=0,
        fingerprint="the same",
        temperature=None,
        energy=None,
        energy_per_atom=Errors(n=frames, mae=1.0, rmse=float(np.sqrt(np.mean(energy**2))), max=1.0),
        relative_energy=None,
        forces=Errors(n=error.size, mae=rmse, rmse=rmse, max=rmse),
        elements={},
        diverged=np.zeros(frames, dtype=np.int64),
        group_names=[f"walker {k}" for k in range(walkers)],
        group=group,
        energy_reference=np.zeros(frames),
        energy_predicted=ATOMS * energy,
        forces_reference=np.zeros((frames * ATOMS, 3)),
        forces_predicted=error.reshape(-1, 3),
        atomic_numbers=np.full(frames * ATOMS, 6),
        structure=np.repeat(np.arange(frames), ATOMS),
        positions=np.zeros((frames * ATOMS, 3)),
        cell=np.zeros((frames, 3, 3)),
    )


def survival_of(rng: np.random.Generator, replicas: int, lifetime: float) -> StabilityResult:
    duration = 6000.0
    life = rng.exponential(lifetime, replicas)
    failed, time = life < duration, np.minimum(life, duration)
    empty = np.zeros((0, 0, 0, 3))
    return StabilityResult(
        protocol=StabilityProtocol(
            temperature=1600.0, timestep=1.0, duration=duration, thermostat="berendsen", criteria=[], settings={}
        ),
        start=Start(
            fingerprint="the same",
            atomic_numbers=np.array([6]),
            positions=np.zeros((1, 3)),
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
        ),
        time_to_failure=time,
        failed=failed,
        curve=survival_curve(time, failed, duration),
        times=Times(mean=float(time.mean()), std=1.0, median=1.0, q25=1.0, q75=1.0),
        failures=[],
        n_bonds=0,
        drift=None,
        replica_steps_per_second=1.0,
        time=np.zeros(0),
        temperature=np.zeros((0, replicas)),
        potential_energy=np.zeros((0, replicas)),
        last_frames=empty,
        last_forces=empty,
        last_steps=np.zeros((0, 0), dtype=np.int64),
    )


def run_of(index: int, results: dict) -> Run:
    assays = {name: AssayRecord(name, str(index), "w", {}, {}, ENVIRONMENT, result) for name, result in results.items()}
    record = RunRecord(name=str(index), source="training", status="finished", weights="w", provenance=ENVIRONMENT)
    return Run(index, "AB"[index], Path(str(index)), record, {}, assays)


def trusted(frames: int, walkers: int, phi: float, tail: float, replicas: int, pairs: int = PAIRS) -> float:
    """The share of pairs of which the headline trusts one, or finds each ahead somewhere."""
    rng, found = np.random.default_rng([frames, walkers, replicas]), 0
    for _ in range(pairs):
        common = {split: sizes(rng, frames, 0, phi) for split in SPLITS}
        lifetime = float(np.exp(rng.normal(8, 1)))
        runs = []
        for index in range(2):
            splits = {s: split_of(rng, common[s], frames, walkers, phi, tail) for s in SPLITS}
            results = {"accuracy": AccuracyResult(splits=splits), "stability": survival_of(rng, replicas, lifetime)}
            runs.append(run_of(index, results))
        found += "does not separate" not in verdict(Study.of(runs)).headline
    return found / pairs


@pytest.mark.parametrize(("potentials", "directions"), [(2, 6), (12, 6), (20, 20)])
def test_the_largest_of_equal_entropies_is_rarely_called_flatter(potentials, directions):
    rng, found = np.random.default_rng([potentials, directions]), 0
    for _ in range(PAIRS):
        entropies = []
        for _ in range(potentials):
            each = rng.normal(size=directions)
            half = float(stats.t.ppf(0.975, directions - 1) * each.std(ddof=1) / np.sqrt(directions))
            entropies.append(Entropy(value=each.mean(), low=each.mean() - half, high=each.mean() + half, each=each))
        found += bool(largest(entropies, 0.05)[1])
    assert found / PAIRS <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / PAIRS)


def test_a_flatter_valley_is_found_among_twelve():
    rng = np.random.default_rng(0)
    each = [rng.normal(size=20) - 3.0 * (k > 0) for k in range(12)]
    half = [float(stats.t.ppf(0.975, 19) * e.std(ddof=1) / np.sqrt(20)) for e in each]
    entropies = [
        Entropy(value=e.mean(), low=e.mean() - h, high=e.mean() + h, each=e) for e, h in zip(each, half, strict=True)
    ]
    assert largest(entropies, 0.05) == (0, list(range(1, 12)))


@pytest.mark.parametrize(
    ("frames", "walkers", "phi", "tail", "replicas"),
    [
        pytest.param(100, 0, 0.0, 5, 30, marks=pytest.mark.slow),
        pytest.param(300, 5, 0.8, 5, 30, marks=pytest.mark.slow),
        (60, 0, 0.9, 5, 30),
        (20, 0, 0.0, 3, 10),
        (8, 0, 0.0, 5, 5),
        (2, 0, 0.0, 5, 2),
    ],
)
def test_one_of_two_equals_is_rarely_trusted_more(frames, walkers, phi, tail, replicas):
    assert trusted(frames, walkers, phi, tail, replicas) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / PAIRS)
