"""LTAU: error distributions of a training's own trajectory, looked up by similarity in descriptor space.

Source: Vita, Samanta, Zhou & Lordi, LTAU-FF: Loss Trajectory Analysis for Uncertainty in Atomistic Force Fields,
section 3.4. The published estimator averages the distributions of the k nearest training atoms. It cannot predict more
than the largest training error, and a neighbour counts the same however far it is; so a second one stands beside it.

The distance-aware estimator predicts that ε / scale follows one law for all atoms, with

    scale = m (1 + (d / h)^2)^(β / 2),    m = Σ_j w_j E[ε_j] / Σ_j w_j,    w_j = exp(-(d_j^2 - d_1^2) / (2 h^2)),

d = d_1 the distance to the nearest training atom, h the median over training atoms of the distance to their k-th
neighbour. The law, as quantiles of ε / scale, comes from held-out frames: a split-conformal prediction with local
scales (Lei et al., J. Am. Stat. Assoc. 113, 1094, 2018), exact on average for data like the held-out ones. The growth
beyond their distances is a model: by default β = 1, an error that rises linearly far away, because held-out frames of
the training's own kind hardly vary in distance and cannot tell; β can be fitted where they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fireassay.errors import InputError
from fireassay.records import ErrorTrajectory, read_arrays, write_arrays
from fireassay.uncertainty.histogram import Histogram, first_moments, from_cumulative, probabilities
from fireassay.uncertainty.search import Index, build

Array = NDArray[np.float64]
Estimator = Literal["published", "distance_aware"]

PRIOR_EXPONENT = 1.0
QUANTILES = 2001


class ErrorPrediction(NamedTuple):
    """What LTAU says of N atoms."""

    expected: Array  # (N,) the expected error: the uncertainty, an error estimate in the trajectory's unit
    distance: Array  # (N,) to the nearest training atom, in the unit of the (standardised) descriptors
    distribution: Histogram  # (N, B + 2)


LEAST_HELD_OUT = 10  # atoms that calibrate the distance-aware estimator


class LTAU:
    """Fitted on a training set's descriptors and error trajectory; asked for atoms by their descriptors.

    k: neighbours. index: `exact` and `flat` find the same neighbours, the first by pruning, the second by FAISS's brute
    force; `hnsw` is approximate with the paper's parameters; `auto` is exact below 200 000 training atoms. standardise:
    descriptors are divided by their standard deviation over the training set. exponent: β of the distance-aware
    estimator; None fits it in `calibrate`, for held-out atoms that lie as far away as those to be predicted.

    Fitted: `edges_` (B + 1,), `mass_` (A, B + 2), `expected_` (A,), `descriptors_` (A, D), `width_` (h above);
    calibrated: `exponent_` (β), `quantiles_` (Q,) of ε / scale.
    """

    def __init__(
        self,
        k: int = 10,
        estimator: Estimator = "published",
        index: Index = "auto",
        standardise: bool = False,
        exponent: float | None = 1.0,
    ) -> None:
        self.k, self.standardise, self.exponent = k, standardise, exponent
        self.estimator: Estimator = estimator
        self.index: Index = index

    def fit(self, descriptors: ArrayLike, errors: ErrorTrajectory) -> Self:
        """Learns from the training atoms' descriptors (A, D), in the error trajectory's order of atoms.

        Atoms without errors (no force label) are left out. Raises InputError when the numbers of atoms disagree, a
        descriptor is not finite, or fewer than k + 1 atoms are left.
        """
        points = _finite(descriptors)
        if len(points) != len(errors.counts):
            raise InputError(
                f"{len(points)} descriptors for {len(errors.counts)} atoms of the error trajectory; "
                "give the training set that the potential was trained on, in its order"
            )
        mass, atoms = probabilities(errors)
        return self._set(points[atoms], errors.edges, mass, atoms)

    def _set(self, points: NDArray[np.float32], edges: Array, mass: Array, atoms: NDArray[np.int64]) -> Self:
        if len(points) <= self.k:
            raise InputError(f"{len(points)} training atoms with errors, needs more than k = {self.k}")
        self.edges_, self.mass_, self.atoms_ = edges, mass, atoms
        self.expected_ = mass @ first_moments(edges)
        self.deviation_ = _deviation(points) if self.standardise else np.ones(points.shape[1], np.float32)
        self.descriptors_ = np.ascontiguousarray(points / self.deviation_)
        self.search_ = build(self.descriptors_, self.index)
        own, _ = self.neighbours(points, atoms)
        self.training_distances_ = own[:, 0]
        self.width_ = max(float(np.median(own[:, -1])), 1e-12)
        return self

    def neighbours(
        self, descriptors: ArrayLike, own: NDArray[np.int64] | None = None
    ) -> tuple[Array, NDArray[np.int64]]:
        """Distances (N, k), ascending, and rows (N, k) of the k nearest training atoms.

        own (N,): each atom's number in the training set, which is then not its own neighbour; -1 for an atom that is
        not in it.
        """
        points = _finite(descriptors)
        if points.shape[1] != self.descriptors_.shape[1]:
            raise InputError(f"descriptors have {points.shape[1]} columns, the fit had {self.descriptors_.shape[1]}")
        if self.standardise:
            points = points / self.deviation_
        square, rows = self.search_.search(points, self.k + (own is not None))
        if own is not None:
            row = np.minimum(np.searchsorted(self.atoms_, own), len(self.atoms_) - 1)
            square, rows = _without(square, rows, np.where(self.atoms_[row] == own, row, -1))
        return np.sqrt(np.maximum(square, 0.0)).astype(np.float64), rows

    def calibrate(self, descriptors: ArrayLike, errors: ArrayLike) -> Self:
        """Fits the distance-aware estimator to held-out atoms: descriptors (N, D) and true errors (N,).

        The atoms must not have been trained on. Raises InputError below ten atoms with errors above zero.
        """
        true = np.asarray(errors, dtype=np.float64)
        distance, rows = self.neighbours(descriptors)
        if true.shape != (len(rows),) or not np.isfinite(true).all() or (true > 0).sum() < LEAST_HELD_OUT:
            raise InputError(
                f"calibration needs finite errors (N,) of at least {LEAST_HELD_OUT} held-out atoms, got shape "
                f"{true.shape} with {int((true > 0).sum())} above zero for {len(rows)} descriptors"
            )
        local, used = self._local(distance, rows), true > 0
        x = 0.5 * np.log1p(np.square(distance[used, 0] / self.width_))
        y = np.log(true[used]) - np.log(local[used])
        self.exponent_ = _slope(x, y) if self.exponent is None else self.exponent
        self.quantiles_ = _quantiles(true / (local * self._growth(distance[:, 0])))
        return self

    def predict(
        self, descriptors: ArrayLike, own: NDArray[np.int64] | None = None, estimator: Estimator | None = None
    ) -> ErrorPrediction:
        """Error distributions of atoms with these descriptors (N, D); `own` as in `neighbours`.

        Raises InputError when the distance-aware estimator is asked for before `calibrate`.
        """
        distance, rows = self.neighbours(descriptors, own)
        if (estimator or self.estimator) == "published":
            found = Histogram(self.edges_, _mean_rows(self.mass_, rows))
            return ErrorPrediction(self.expected_[rows].mean(1), distance[:, 0], found)
        scale = self._scale(distance, rows)
        level = np.linspace(0.0, 1.0, len(self.quantiles_))
        edges = _fine_edges(
            float(scale.min()) * self.quantiles_[level >= 0.005][0], float(scale.max()) * self.quantiles_[-1]
        )
        cumulative = np.interp(edges / scale[:, None], self.quantiles_, level, left=0.0, right=1.0)
        found = from_cumulative(edges, cumulative)
        return ErrorPrediction(scale * _mean_of_quantiles(self.quantiles_), distance[:, 0], found)

    def expected_error(self, descriptors: ArrayLike, estimator: Estimator | None = None) -> Array:
        """The expected error (N,) alone, without distributions: what a simulation asks at every step."""
        distance, rows = self.neighbours(descriptors)
        if (estimator or self.estimator) == "published":
            return self.expected_[rows].mean(1)
        return self._scale(distance, rows) * _mean_of_quantiles(self.quantiles_)

    def _scale(self, distance: Array, rows: NDArray[np.int64]) -> Array:
        if not hasattr(self, "quantiles_"):
            raise InputError("the distance-aware estimator needs held-out frames; call calibrate first")
        return self._local(distance, rows) * self._growth(distance[:, 0])

    def _local(self, distance: Array, rows: NDArray[np.int64]) -> Array:
        weight = np.exp(-0.5 * (np.square(distance) - np.square(distance[:, :1])) / self.width_**2)
        return (weight * self.expected_[rows]).sum(1) / weight.sum(1)

    def _growth(self, distance: Array) -> Array:
        return np.exp(0.5 * self.exponent_ * np.log1p(np.square(distance / self.width_)))

    def save(self, path: Path) -> None:
        """Writes an npz atomically; the search index is built again on loading."""
        calibrated = hasattr(self, "quantiles_")
        write_arrays(
            path,
            {
                "k": self.k,
                "estimator": self.estimator,
                "index": self.index,
                "standardise": self.standardise,
                "given_exponent": np.nan if self.exponent is None else self.exponent,
                "descriptors": self.descriptors_ * self.deviation_,
                "edges": self.edges_,
                "mass": self.mass_,
                "atoms": self.atoms_,
                "exponent": self.exponent_ if calibrated else np.nan,
                "quantiles": self.quantiles_ if calibrated else np.zeros(0),
            },
        )

    @classmethod
    def load(cls, path: Path) -> LTAU:
        """Reads what `save` wrote. Raises InputError when the file is something else."""
        data = read_arrays(path)
        try:
            given = float(data["given_exponent"])
            found = cls(
                int(data["k"]),
                str(data["estimator"]),  # type: ignore[arg-type]
                str(data["index"]),  # type: ignore[arg-type]
                bool(data["standardise"]),
                None if np.isnan(given) else given,
            )
            found._set(data["descriptors"], data["edges"], data["mass"], data["atoms"])
            if len(data["quantiles"]):
                found.exponent_, found.quantiles_ = float(data["exponent"]), data["quantiles"]
        except KeyError as error:
            raise InputError(f"{path} is not a fitted LTAU: {error} is missing; fit it again") from error
        return found


def _finite(descriptors: ArrayLike) -> NDArray[np.float32]:
    points = np.ascontiguousarray(descriptors, dtype=np.float32)
    if points.ndim != 2 or not points.shape[1]:
        raise InputError(f"descriptors have shape {points.shape}, needs (N, D)")
    if not np.isfinite(points).all():
        bad = np.flatnonzero(~np.isfinite(points).all(1))
        raise InputError(
            f"descriptors of {len(bad)} atoms (first: {bad[0]}) are not finite; the model has diverged there"
        )
    return points


def _deviation(points: NDArray[np.float32]) -> NDArray[np.float32]:
    deviation = points.std(0)
    return np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def _without(
    square: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """k of k + 1 neighbours: all but the atom itself, or but the last where it is not among them."""
    k = rows.shape[1] - 1
    itself = rows == own[:, None]
    drop = np.where(itself.any(1), itself.argmax(1), k)
    keep = np.arange(k + 1) != drop[:, None]
    return square[keep].reshape(-1, k), rows[keep].reshape(-1, k)


def _mean_rows(mass: Array, rows: NDArray[np.int64], chunk: int = 10_000) -> Array:
    out = np.empty((len(rows), mass.shape[1]))
    for start in range(0, len(rows), chunk):
        out[start : start + chunk] = mass[rows[start : start + chunk]].mean(1)
    return out


def _slope(x: Array, y: Array) -> float:
    """Posterior mean of the slope of y on x with the prior N(PRIOR_EXPONENT, 1), not below zero."""
    x, y = x - x.mean(), y - y.mean()
    square = float(x @ x)
    least = float(x @ y) / square if square > 0 else PRIOR_EXPONENT
    noise = float(np.square(y - least * x).mean())
    return max((float(x @ y) + noise * PRIOR_EXPONENT) / (square + noise), 0.0) if noise > 0 else max(least, 0.0)


def _quantiles(ratio: Array) -> Array:
    """Quantiles at even levels; of n values the largest has level n / (n + 1), and twice as much has level 1."""
    ordered = np.concatenate([[0.0], np.sort(ratio), [2 * ratio.max()]])
    return np.interp(np.linspace(0.0, 1.0, QUANTILES), np.linspace(0.0, 1.0, len(ordered)), ordered)


def _fine_edges(lowest: float, highest: float) -> Array:
    """Logarithmic edges 10 % apart from `lowest` to `highest`: the trajectory's may be too coarse for a narrow law."""
    lowest = max(lowest, 1e-9 * highest)
    return np.geomspace(lowest, highest, max(int(np.ceil(np.log(highest / lowest) / np.log(1.1))), 1) + 1)


def _mean_of_quantiles(quantiles: Array) -> float:
    return float((quantiles[1:] + quantiles[:-1]).mean() / 2)
