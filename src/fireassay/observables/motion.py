"""How atoms move: mean squared displacement, diffusivity, RMSD, velocity autocorrelation, density of states.

| symbol | code | unit |
|---|---|---|
| MSD(t) = ⟨|x(t0 + t) - x(t0)|²⟩ | `mean_squared_displacement` | Å² |
| D = slope / (2 d) | `diffusivity` | Å²/fs; 1 Å²/fs = 0.1 cm²/s |
| C(t) = ⟨v(t0) · v(t0 + t)⟩ / ⟨v²⟩ | `velocity_autocorrelation` | 1 |
| g(ν) | `density_of_states` | 1/THz, integrates to 1 |

Averages run over all origins t0, by Fourier transforms (Kneller et al., Comput. Phys. Commun. 91, 191, 1995; Calandrini
et al., École thématique de la Société Française de la Neutronique 12, 201, 2011).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from fireassay.errors import InputError

Array = NDArray[np.float64]
CM2_PER_S: Final = 0.1  # in one Å²/fs
_NUMBERS: Final = 2**22  # that are transformed at once


def _correlation(series: Array, lags: int) -> Array:
    """Σ over components and origins, divided by the number of origins, of a(t0) · a(t0 + t): (T, M, 3) -> (lags, M)."""
    n = len(series)
    size = int(fft.next_fast_len(2 * n, real=True) or 2 * n)
    total = np.zeros((lags, series.shape[1]))
    for k in range(3):
        spectrum = np.abs(np.asarray(fft.rfft(series[:, :, k], size, axis=0, workers=-1)))
        power = spectrum * spectrum
        total += np.asarray(fft.irfft(power, size, axis=0, workers=-1))[:lags]
    return total / (n - np.arange(lags))[:, None]


def _blocks(n_frames: int, n_atoms: int) -> list[slice]:
    step = max(1, _NUMBERS // (2 * n_frames))
    return [slice(start, min(start + step, n_atoms)) for start in range(0, n_atoms, step)]


def _lags(n_frames: int, lags: int | None) -> int:
    wanted = n_frames // 2 + 1 if lags is None else lags
    if not 1 <= wanted <= n_frames:
        raise InputError(f"{wanted} lags of a trajectory of {n_frames} frames; needs at most as many as frames")
    return wanted


def squared_displacements(positions: Array, lags: int | None = None) -> Array:
    """|x(t0 + t) - x(t0)|² (lags, N) in Å², averaged over all origins, of positions (T, N, 3) without jumps.

    lags counts from 0; by default half of the frames and one. Raises InputError for more lags than frames.
    """
    n, atoms = positions.shape[:2]
    lags = _lags(n, lags)
    found = np.empty((lags, atoms))
    for block in _blocks(n, atoms):
        x = positions[:, block] - positions[:, block].mean(0)  # a large offset would cost digits
        squares = np.einsum("tnk,tnk->tn", x, x)
        summed = np.concatenate([np.zeros_like(squares[:1]), np.cumsum(squares, axis=0)])
        first = summed[n - np.arange(lags)]  # Σ of the origins' squares, t0 < n - t
        last = summed[n] - summed[np.arange(lags)]  # Σ of the ends' squares, t0 >= t
        found[:, block] = (first + last) / (n - np.arange(lags))[:, None] - 2 * _correlation(x, lags)
    found[0] = 0.0
    return np.maximum(found, 0.0)


def mean_squared_displacement(positions: Array, groups: NDArray[np.int64], lags: int | None = None) -> Array:
    """The mean over the atoms of each group (lags, G) in Å²; groups (N,) are numbers from 0."""
    each = squared_displacements(positions, lags)
    counts = np.bincount(groups)
    return np.stack([each[:, groups == g].mean(1) for g in range(len(counts))], axis=1)


class Diffusion(NamedTuple):
    """D in Å²/fs with its standard error over independent parts, and the window of the fit in fs; NaN without parts."""

    value: float
    error: float
    window: tuple[float, float]


def diffusivity(displacement: Array, interval: float, window: tuple[float, float], dimensions: int = 3) -> float:
    """D = slope / (2 d) in Å²/fs of the line through MSD (lags,) Å² between the times of `window` in fs.

    interval fs is the time between two lags. Raises InputError when fewer than two lags lie in the window.
    """
    time = np.arange(len(displacement)) * interval
    inside = (time >= window[0] - 1e-9) & (time <= window[1] + 1e-9)
    if inside.sum() < 2:
        raise InputError(
            f"a slope between {window[0]:g} and {window[1]:g} fs needs two points, the displacement has "
            f"{int(inside.sum())} of its {len(time)} there, up to {time[-1]:g} fs; choose another window"
        )
    t, y = time[inside] - time[inside].mean(), displacement[inside]
    return float(t @ (y - y.mean()) / (t @ t)) / (2 * dimensions)


def diffusion_of(parts: Array, interval: float, window: tuple[float, float], dimensions: int = 3) -> Diffusion:
    """D of the mean of displacements (parts, lags) of independent parts, with the standard error of the parts' own."""
    value = diffusivity(parts.mean(0), interval, window, dimensions)
    own = np.array([diffusivity(part, interval, window, dimensions) for part in parts])
    error = float(own.std(ddof=1) / np.sqrt(len(own))) if len(own) > 1 else float("nan")
    return Diffusion(value, error, window)


def deviation_from_start(positions: Array) -> Array:
    """RMSD (T,) in Å: sqrt of the mean over atoms of |x(t) - x(0)|², without any superposition."""
    moved = positions - positions[0]
    return np.sqrt(np.einsum("tnk,tnk->t", moved, moved) / positions.shape[1])


def velocity_autocorrelation(velocities: Array, weights: Array | None = None, lags: int | None = None) -> Array:
    """C(t) (lags,), 1 at t = 0, over all origins and atoms of velocities (T, N, 3); weights (N,) are masses, or 1."""
    n, atoms = velocities.shape[:2]
    lags = _lags(n, lags)
    weights = np.ones(atoms) if weights is None else weights
    total = np.zeros(lags)
    for block in _blocks(n, atoms):
        total += _correlation(velocities[:, block], lags) @ weights[block]
    return total / total[0] if total[0] > 0 else total


def velocities_of(positions: Array, interval: float) -> Array:
    """(T - 1, N, 3) Å/fs: the mean velocities between frames, for trajectories that come without any."""
    return np.diff(positions, axis=0) / interval


class Spectrum(NamedTuple):
    """g(ν) in 1/THz at frequencies ν in THz, from 0 to half the sampling rate."""

    frequency: Array
    density: Array


def density_of_states(autocorrelation: Array, interval: float, differences: bool = False) -> Spectrum:
    """The vibrational density of states: the cosine transform of C(t) (lags,), lags `interval` fs apart.

    C should be weighted by mass. It is faded out by a Hann window, so that a mode has the width of about 2 / (t_max);
    the density integrates to 1, small negative values from noise included. With `differences` the velocities were mean
    velocities between frames, whose spectrum is damped by sinc²(ν Δt), which is divided out up to 0.8 of the highest
    frequency; nothing is said of those above.
    """
    n = len(autocorrelation)
    faded = autocorrelation * 0.5 * (1 + np.cos(np.pi * np.arange(n) / n))
    size = int(fft.next_fast_len(8 * n, real=True) or 8 * n)
    even = np.concatenate([faded, np.zeros(size - 2 * n + 1), faded[:0:-1]])
    density = np.real(np.asarray(fft.rfft(even)))
    frequency: Array = np.arange(len(density), dtype=np.float64) * (1e3 / (size * interval))  # 1/fs = 1000 THz
    if differences:
        damping = np.sinc(frequency * interval * 1e-3) ** 2
        known = frequency <= 0.8 * frequency[-1]
        frequency, density = frequency[known], density[known] / damping[known]
    step = frequency[1]
    return Spectrum(frequency, density / max(density.sum() * step, 1e-300))


def block_means(values: Array, blocks: int = 5) -> tuple[float, float]:
    """Mean of a series (T,) and its standard error from the means of `blocks` consecutive parts; NaN when too short."""
    if len(values) < 2 * blocks:
        return float(values.mean()) if len(values) else float("nan"), float("nan")
    means = np.array([part.mean() for part in np.array_split(values, blocks)])
    return float(values.mean()), float(means.std(ddof=1) / np.sqrt(blocks))


def decorrelation_time(violation: Array, time: Array, limit: float = 0.7) -> float | None:
    """The first time (fs) at which a force violation (T,) reaches `limit`; None when it never does."""
    beyond = np.flatnonzero(violation >= limit)
    return float(time[beyond[0]]) if len(beyond) else None
