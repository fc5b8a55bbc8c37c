"""Assay: how fast the training loss rises when the weights are displaced, and its loss entropy.

Source: Vita & Schwalbe-Koda, Data efficiency and extrapolation trends in neural network interatomic potentials,
section 3. Two surfaces are drawn, the RMSE of the energy per atom (eV/atom) and of the force components (eV/Å) over the
training set, along lines θ + t δ, t in units of the weights' own norm.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, Field
from scipy.interpolate import CubicSpline, PchipInterpolator
from torch import Tensor

from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.directions import CONSTANTS, Normalisation, Weight, draw, flat, frozen_of, like, weights_of
from fireassay.assays.predictions import cut, dataset_for
from fireassay.data.datasets import Batch, Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Baseline, Potential
from fireassay.progress import Progress
from fireassay.records.files import read_arrays, write_arrays
from fireassay.records.landscape import Entropies, Entropy, LandscapeResult, LandscapeSetting, Lines, Plane
from fireassay.settings import Settings
from fireassay.statistics.interval import jackknife
from fireassay.statistics.units import Units

Array = NDArray[np.float64]
_FINER = 32  # parts of an interval between two points


def _losses(loss: ArrayLike, temperature: float) -> Array:
    values = np.asarray(loss, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"loss has shape {values.shape}, needs (P,) with P > 0; average several directions first: loss.mean(axis=0)"
        )
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature is {temperature}, needs a positive number in the unit of the loss")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise InputError("loss holds NaN or -inf; give a point where the model diverged as +inf")
    return values


def _logsumexp(x: Array) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum())) if np.isfinite(top) else float(top)


def loss_entropy(loss: ArrayLike, temperature: float) -> float:
    """S = log Σ_t exp(-ℓ(t) / T), eq. 6 with k = 1; a pure number.

    loss (P,): the loss at the points of a line, averaged over directions (eq. 7), in the unit of `temperature`. A point
    where the loss is +inf contributes nothing; S is -inf when all are. A loss of zero everywhere gives log P. The value
    depends on the number of points: compare landscapes on one grid, or use `loss_entropy_integral`.

    Raises InputError for another shape, NaN, -inf, or a temperature that is not positive.
    """
    return _logsumexp(-_losses(loss, temperature) / temperature)


def loss_entropy_integral(t: ArrayLike, loss: ArrayLike, temperature: float) -> float:
    """log ∫ exp(-ℓ(t) / T) dt, which does not depend on the grid's density; a pure number for t without unit.

    t (P,) ascending, loss (P,) as in `loss_entropy`. Between the points a cubic spline passes through the loss, or
    through its square, which for a root mean square is smooth even where the loss has a V: whichever foretells every
    second point better from the others. Where that would leave the range of two points, but for the lowest, it is
    monotone (PCHIP; Fritsch & Carlson, SIAM J. Numer. Anal. 17, 238, 1980). A loss of zero everywhere gives the log of
    the interval's length; an interval with an end that is +inf contributes nothing.
    """
    points, values = np.asarray(t, dtype=np.float64), _losses(loss, temperature)
    if points.shape != values.shape or len(points) < 2 or not (np.diff(points) > 0).all():
        raise InputError(
            f"t has shape {points.shape}, loss {values.shape}; needs two or more ascending points for both"
        )
    below = min(0.0, float(values.min()))
    finite = np.flatnonzero(np.isfinite(values))
    runs = np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1)
    parts = [_finite_integral(points[run], values[run] - below, temperature) for run in runs]
    return float(np.logaddexp.reduce(parts)) - below / temperature


def _finite_integral(t: Array, loss: Array, temperature: float) -> float:
    """Of finite losses that are not negative."""
    if len(t) < 3:
        return _linear_integral(t, loss, temperature)
    power = 1
    if len(t) >= 5:
        weight = np.exp(-(loss - loss.min()) / temperature)
        missed = [np.abs(weight * (_interpolated(t[::2], loss[::2], t, power) - loss)).sum() for power in (1, 2)]
        power = 1 + int(np.argmin(missed))
    share = np.arange(_FINER) / _FINER
    fine = np.append((t[:-1, None] + np.diff(t)[:, None] * share).ravel(), t[-1])
    return _linear_integral(fine, _interpolated(t, loss, fine, power), temperature)


def _interpolated(t: Array, loss: Array, at: Array, power: int) -> Array:
    """Losses at (F,) ascending, within t but for rounding, from a spline of their `power`."""
    known = loss**power
    inside = np.clip(at, t[0], t[-1])
    smooth, safe = (kind(t, known)(inside) for kind in (CubicSpline, PchipInterpolator))
    part = np.clip(np.searchsorted(t, inside, side="right") - 1, 0, len(t) - 2)
    low, high = np.minimum(known[:-1], known[1:]), np.maximum(known[:-1], known[1:])
    low = np.where(low == known.min(), 0.0, low)  # the minimum may lie between two points
    slack = 1e-9 * known.max()
    beyond = (smooth < low[part] - slack) | (smooth > high[part] + slack)
    fits = np.bincount(part, beyond, len(t) - 1)[part] == 0
    return np.maximum(np.where(fits, smooth, safe), 0.0) ** (1 / power)


def _linear_integral(t: Array, loss: Array, temperature: float) -> float:
    """log ∫ exp(-ℓ / T) dt of a loss that is linear between the points."""
    if len(t) < 2:
        return float("-inf")
    a, b, width = loss[:-1] / temperature, loss[1:] / temperature, np.diff(t)
    rise = np.abs(b - a)
    mean = np.where(rise > 1e-9, -np.expm1(-rise) / np.where(rise > 1e-9, rise, 1.0), 1 - rise / 2)
    return _logsumexp(np.log(width) + np.log(mean) - np.minimum(a, b))


def _odd(points: int) -> int:
    if points % 2 == 0:
        raise ValueError(f"{points} is even; an odd number is needed, so that t = 0 is one of the points")
    return points


class LandscapeSettings(Settings):
    """Settings of the landscape assay; the defaults are the published grid and temperatures."""

    n_directions: int = Field(default=20, ge=1, description="random directions to average over")
    points: Annotated[int, AfterValidator(_odd)] = Field(
        default=81, ge=3, description="points of a line, odd so that the trained weights are one of them"
    )
    span: float = Field(default=0.25, gt=0, description="a line runs from -span to span, in units of the weights' norm")
    normalisations: tuple[Normalisation, ...] = Field(
        default=("filter",),
        min_length=1,
        description="how directions are scaled; published is the authors' degenerate one",
    )
    frozen: tuple[str, ...] = Field(
        default=tuple(CONSTANTS),
        description="name patterns of parameters that are not moved: physical constants and changes of units",
    )
    published_rows: tuple[str, ...] = Field(
        default=("*radial*",),
        description="parameters that the published scaling takes row by row instead of one by one",
    )
    frames: int | None = Field(
        default=None, ge=1, description="evaluate on this many random training frames; all when null"
    )
    seed: int = Field(default=0, ge=0, description="of the directions and of the choice of frames")
    temperature_energy: float = Field(default=0.004, gt=0, description="T_E, eV/atom")
    temperature_forces: float = Field(default=0.04, gt=0, description="T_F, eV/Å")
    alpha: float = Field(default=0.2, ge=0, le=1, description="S = alpha S_E + (1 - alpha) S_F")
    plane_points: int = Field(
        default=0, ge=0, description="points a side of a plane of the first two directions; 0 for none"
    )
    plane_span: float = Field(default=1.0, gt=0, description="a plane runs from -plane_span to plane_span")
    twin: bool = Field(
        default=True,
        description="evaluate the frozen equivalent where it gives the loss of the trained weights to 1e-4",
    )
    max_edges: int = Field(default=10_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=256, ge=1, description="structures of one batch")


class Surfaces(NamedTuple):
    """RMSE of the energy per atom in eV/atom and of the force components in eV/Å; NaN without labels, inf diverged."""

    energy: Array
    forces: Array


class TrainingLoss:
    """The two losses on a data set that is cut into batches once.

    With `twin` they are those of the potential's frozen equivalent, which is made anew at every call.
    """

    def __init__(self, potential: Potential, batches: Sequence[Batch], twin: bool = False) -> None:
        self.potential, self.batches, self.twin = potential, batches, twin
        self.sizes = [torch.bincount(b.graph.structure, minlength=b.graph.n_structures) for b in batches]
        self.n_energies = sum(int(b.labels.has_energy.sum()) for b in batches)
        self.n_forces = 3 * sum(int(b.labels.has_forces.sum()) for b in batches)

    def __call__(self) -> tuple[float, float]:
        """(eV/atom, eV/Å) with the weights that the potential has now."""
        potential = self.potential.frozen() if self.twin else self.potential
        squares = torch.zeros(2, dtype=torch.float64, device=self.batches[0].graph.positions.device)
        for batch, sizes in zip(self.batches, self.sizes, strict=True):
            labels = batch.labels
            found = potential.predict(batch.graph, forces=self.n_forces > 0)
            energy = torch.where(labels.has_energy, (found.energy - labels.energy) / sizes, 0.0)
            squares[0] += energy.to(torch.float64).square().sum()
            if found.forces is not None:
                error = torch.where(labels.has_forces.unsqueeze(1), found.forces - labels.forces, 0.0)
                squares[1] += error.to(torch.float64).square().sum()
        energy, forces = squares.tolist()
        return _rmse(energy, self.n_energies), _rmse(forces, self.n_forces)


def _rmse(squares: float, count: int) -> float:
    if not count:
        return float("nan")
    return (squares / count) ** 0.5 if np.isfinite(squares) else float("inf")


@contextmanager
def _displaceable(potential: Potential, weights: Sequence[Weight]) -> Iterator[None]:
    """Evaluation mode, no gradients to weights; whatever happens, everything is put back bit for bit."""
    saved = [w.parameter.detach().clone() for w in weights]
    flags = [(p, p.requires_grad) for p in potential.parameters()]
    modes = [(m, m.training) for m in potential.modules()]
    try:
        potential.eval()
        potential.requires_grad_(False)
        yield
    finally:
        _place(weights, saved)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def _place(weights: Sequence[Weight], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.parameter.copy_(value)


def run(subject: Subject, settings: LandscapeSettings) -> LandscapeResult:
    """Lines (and planes) of the training loss around the weights of the subject's potential, and their entropies.

    In the subject's folder, finished directions are kept in `landscape`, and an interrupted run with the same weights,
    frames and settings goes on from there. The potential is displaced in place and restored bit for bit, also after an
    error or an interrupt.

    Raises InputError when the frames have neither energies nor forces, or no weight is left to be moved.
    """
    potential = subject.potential
    weights = weights_of(potential, settings.frozen)
    dataset = dataset_for(potential, _chosen(subject.train, settings))
    groups = cut(dataset, settings.max_edges, settings.max_structures)
    loss = TrainingLoss(potential, [dataset.select(g, potential.dtype, subject.device) for g in groups])
    if not loss.n_energies and not loss.n_forces:
        raise InputError("the training frames have neither energies nor forces; a loss landscape needs labels")
    t = np.linspace(-settings.span, settings.span, settings.points)
    store = _Store(subject.folder, _fingerprint(weights, dataset, settings))
    with _displaceable(potential, weights):
        probe = _Probe(loss, weights, subject.progress, f"landscape of {subject.name}", settings)
        energy, forces = probe.start(store)
        try:
            lines = {n: _lines(probe, n, t, store, settings) for n in settings.normalisations}
        finally:
            subject.progress.stop()
    return LandscapeResult(
        setting=_setting(settings, dataset),
        architecture=architecture_of(potential),
        t=t,
        lines=lines,
        minimum_energy=energy if np.isfinite(energy) else None,
        minimum_forces=forces if np.isfinite(forces) else None,
        flat_entropy=float(np.log(settings.points)),
        n_weights=sum(w.parameter.numel() for w in weights),
        n_frames=len(dataset),
        frozen=frozen_of(potential, settings.frozen),
        twin=loss.twin,
        grid_points_per_second=probe.pace,
    )


ASSAY = Assay("landscape", LandscapeSettings, (Need.WEIGHTS, Need.TRAINING_FRAMES), run)


def architecture_of(potential: Potential) -> str:
    """What two potentials must share for their entropies to be compared: class and arguments, but for the depth.

    More layers leave the filters of a layer as they are; degree, parity and channels do not.
    """
    inner = potential.potential if isinstance(potential, Baseline) else potential
    free = ("n_layers", "seed", "average_neighbours")
    arguments = {name: value for name, value in inner.arguments.items() if name not in free}
    return f"{type(inner).__name__} {json.dumps(arguments, sort_keys=True, default=repr)}"


def _setting(settings: LandscapeSettings, dataset: Dataset) -> LandscapeSetting:
    return LandscapeSetting(
        n_directions=settings.n_directions,
        points=settings.points,
        span=settings.span,
        seed=settings.seed,
        frames=fingerprint(dataset.structures),
        temperature_energy=settings.temperature_energy,
        temperature_forces=settings.temperature_forces,
        alpha=settings.alpha,
    )


class _Probe:
    """Moves the weights and evaluates the loss there, counting grid points."""

    def __init__(
        self, loss: TrainingLoss, weights: Sequence[Weight], progress: Progress, title: str, settings: LandscapeSettings
    ) -> None:
        self.loss, self.weights, self.progress, self.title, self.settings = loss, weights, progress, title, settings
        self.centre = flat([w.parameter for w in weights])
        self.minimum = (float("nan"), float("nan"))
        self.evaluated, self.seconds = 0, 0.0

    def start(self, store: _Store) -> tuple[float, float]:
        """The losses at the centre, once the progress is begun and it is known whether the twin reproduces them."""
        s = self.settings
        line, plane = s.points - 1, s.plane_points**2
        keys = [(n, d) for n in s.normalisations for d in range(s.n_directions)]
        done = sum(line for n, d in keys if store.has(f"{n}-{d:03d}"))
        done += sum(plane for n in s.normalisations if plane and store.has(f"{n}-plane"))
        self.progress.start(self.title, len(s.normalisations) * (s.n_directions * line + plane), done)
        self.minimum = self.loss()
        if s.twin:
            self.loss.twin = True
            self.loss.twin = np.allclose(self.loss(), self.minimum, rtol=1e-4, atol=1e-12, equal_nan=True)
        return self.minimum

    def at(self, offset: Tensor | None) -> tuple[float, float]:
        """The losses at the centre + offset (W,); at the centre itself they are known."""
        began = time.perf_counter()
        if offset is None:
            return self.minimum
        _place(self.weights, like(self.centre + offset, self.weights))
        found = self.loss()
        self.evaluated, self.seconds = self.evaluated + 1, self.seconds + time.perf_counter() - began
        self.progress.advance()
        return found

    @property
    def pace(self) -> float | None:
        """Grid points per second; None when all of them came from an earlier run."""
        return self.evaluated / self.seconds if self.evaluated else None

    def line(self, direction: Tensor, t: Array) -> Surfaces:
        points = [self.at(None if x == 0 else x * direction) for x in t.tolist()]
        energy, forces = zip(*points, strict=True)
        return Surfaces(np.array(energy), np.array(forces))

    def plane(self, directions: Tensor, t: Array) -> Surfaces:
        points = [[self.at(x * directions[0] + y * directions[1]) for y in t.tolist()] for x in t.tolist()]
        both = np.array(points)
        return Surfaces(both[..., 0], both[..., 1])


class _Store:
    """Finished lines on disk, each with a fingerprint of what it was made from."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder = folder / "landscape" if folder is not None else None
        self.fingerprint = fingerprint

    def get(self, key: str) -> Surfaces | None:
        """What an earlier run with the same fingerprint stored, None when there is nothing of the kind."""
        if self.folder is None or not (path := self.folder / f"{key}.npz").exists():
            return None
        try:
            found = read_arrays(path)
            same = str(found["fingerprint"]) == self.fingerprint
            return Surfaces(found["energy"], found["forces"]) if same else None
        except (InputError, KeyError):
            return None

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def put(self, key: str, surfaces: Surfaces) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_arrays(self.folder / f"{key}.npz", {**surfaces._asdict(), "fingerprint": self.fingerprint})


def _lines(probe: _Probe, normalisation: Normalisation, t: Array, store: _Store, settings: LandscapeSettings) -> Lines:
    _place(probe.weights, like(probe.centre, probe.weights))
    generator = torch.Generator().manual_seed(settings.seed)
    directions, cosines = draw(probe.weights, normalisation, settings.n_directions, generator, settings.published_rows)
    off_diagonal = (cosines - torch.diag(cosines.diagonal())).abs()
    lines = []
    for d, direction in enumerate(directions):
        key = f"{normalisation}-{d:03d}"
        found = store.get(key)
        if found is None:
            found = probe.line(direction, t)
            store.put(key, found)
        lines.append(found)
    surfaces = Surfaces(np.stack([x.energy for x in lines]), np.stack([x.forces for x in lines]))
    factors = np.logspace(-2, 2, 41)
    return Lines(
        cosine_max=float(off_diagonal.max()),
        cosines=cosines.numpy(),
        energy=surfaces.energy,
        forces=surfaces.forces,
        entropy=_entropies(surfaces, settings, loss_entropy),
        entropy_integral=_entropies(surfaces, settings, lambda loss, scale: loss_entropy_integral(t, loss, scale)),
        integral_error=_integral_error(t, surfaces, settings),
        temperature_factor=factors,
        energy_of_temperature=_of_temperature(surfaces.energy, settings.temperature_energy, factors),
        forces_of_temperature=_of_temperature(surfaces.forces, settings.temperature_forces, factors),
        plane=_plane(probe, normalisation, directions, store, settings),
    )


def _plane(
    probe: _Probe, normalisation: Normalisation, directions: Tensor, store: _Store, settings: LandscapeSettings
) -> Plane | None:
    if not settings.plane_points or settings.n_directions < 2:
        return None
    side = np.linspace(-settings.plane_span, settings.plane_span, settings.plane_points)
    found = store.get(f"{normalisation}-plane")
    if found is None:
        found = probe.plane(directions[:2], side)
        store.put(f"{normalisation}-plane", found)
    return Plane(t=side, energy=found.energy, forces=found.forces)


def _entropies(surfaces: Surfaces, settings: LandscapeSettings, entropy: Callable[[Array, float], float]) -> Entropies:
    def of_energy(kept: NDArray[np.bool_]) -> float:
        return entropy(surfaces.energy[kept].mean(0), settings.temperature_energy)

    def of_forces(kept: NDArray[np.bool_]) -> float:
        return entropy(surfaces.forces[kept].mean(0), settings.temperature_forces)

    def total(kept: NDArray[np.bool_]) -> float:
        return settings.alpha * of_energy(kept) + (1 - settings.alpha) * of_forces(kept)

    has_energy, has_forces = (not np.isnan(lines).any() for lines in surfaces)
    n = len(surfaces.energy)
    return Entropies(
        energy=entropy_over(of_energy, n) if has_energy else None,
        forces=entropy_over(of_forces, n) if has_forces else None,
        total=entropy_over(total, n) if has_energy and has_forces else None,
    )


def entropy_over(entropy: Callable[[NDArray[np.bool_]], float], directions: int) -> Entropy:
    """An entropy of the mean over directions with its interval; `entropy` takes which directions (D,) are kept.

    Directions are independent draws: the interval leaves out one at a time. There is none with fewer than five, or
    where an entropy is not finite.
    """
    one = np.eye(directions, dtype=bool)
    each = np.array([entropy(kept) for kept in one])
    if not np.isfinite(each).all():
        return Entropy(value=entropy(np.ones(directions, dtype=bool)), low=None, high=None, each=each)
    units = Units(np.arange(directions), directions, "direction")
    value, low, high = jackknife(entropy, np.arange(directions), units)
    known = np.isfinite(low)
    return Entropy(value=value, low=low if known else None, high=high if known else None, each=each)


def _integral_error(t: Array, surfaces: Surfaces, settings: LandscapeSettings) -> float | None:
    """The largest change of an integral entropy when every second point is left out, the centre staying."""
    chosen = slice((len(t) // 2) % 2, None, 2)
    changes = []
    for lines, scale in zip(surfaces, (settings.temperature_energy, settings.temperature_forces), strict=True):
        loss = lines.mean(0)
        if len(t[chosen]) < 3 or np.isnan(loss).any():
            continue
        inner = slice(chosen.start, len(t) - chosen.start)  # both cover the same interval
        whole = loss_entropy_integral(t[inner], loss[inner], scale)
        coarse = loss_entropy_integral(t[chosen], loss[chosen], scale)
        if np.isfinite(whole) and np.isfinite(coarse):
            changes.append(abs(whole - coarse))
    return max(changes, default=None)


def _of_temperature(lines: Array, temperature: float, factors: Array) -> Array | None:
    if np.isnan(lines).any():
        return None
    return np.array([loss_entropy(lines.mean(0), temperature * factor) for factor in factors])


def _chosen(train: Sequence[Structure], settings: LandscapeSettings) -> list[Structure]:
    if settings.frames is None or settings.frames >= len(train):
        return list(train)
    chosen = np.random.default_rng(settings.seed).choice(len(train), settings.frames, replace=False)
    return [train[i] for i in sorted(chosen.tolist())]


def _fingerprint(weights: Sequence[Weight], dataset: Dataset, settings: LandscapeSettings) -> str:
    fixed = settings.model_dump_json(exclude={"normalisations", "temperature_energy", "temperature_forces", "alpha"})
    digest = hashlib.sha256(fixed.encode())
    for weight in weights:
        digest.update(f"{weight.name}{tuple(weight.parameter.shape)}{weight.parameter.dtype}{weight.axes}".encode())
    digest.update(flat([w.parameter for w in weights]).numpy().tobytes())
    for label in (*dataset.labels, dataset.atomic_numbers, dataset.structure_sizes):
        digest.update(label.numpy().tobytes())
    digest.update(np.concatenate([s.positions for s in dataset.structures]).tobytes())
    return digest.hexdigest()
