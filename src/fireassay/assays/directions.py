"""Random directions in the space of a potential's weights, scaled filter by filter.

A filter is the set of weights into one output channel of one path (Li et al., Visualizing the loss landscape of neural
nets, section 4; Vita & Schwalbe-Koda, Data efficiency and extrapolation trends, eq. 4). The layers of this package keep
the output channel on the last axis and what it sums over on the axis before, with further axes for independent paths
(element, degree l, head): so a filter of a parameter (..., in, out) is one column. So it is for a table (species,
channels), which is a linear layer of the species' indicators. A vector (biases, gates) is one filter as a whole, and
so is a readout with one output. A module with another layout says so in an attribute `filter_axes`, a mapping from the
name of its parameter to the axes that are summed over within one filter; for torch's own layers `TORCH_AXES` says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.records.landscape import FrozenWeights

# torch keeps (out, in): a filter is one row.
TORCH_AXES: Mapping[type[nn.Module], Mapping[str, tuple[int, ...]]] = {nn.Linear: {"weight": (1,)}}

# What is a physical constant, or a change of units, and no weight of the network: patterns of names, and why.
CONSTANTS: Mapping[str, str] = {
    "*frequencies": "Bessel frequencies, as published",
    "*basis.functions.means": "centres of radial functions",
    "*basis.functions.widths": "widths of radial functions",
    "scale": "scale of the energies of a species",
    "*.scale": "scale of the energies of a species",
    "shift": "energy of an isolated atom",
    "*.shift": "energy of an isolated atom",
    "*energy_scale": "scale of the energies of a species",
    "*charge_scale": "scale of the charges of a species",
    "*charge_shift": "charge of an isolated atom",
    "*dispersion.raw": "constants of the dispersion",
}
Normalisation = Literal["filter", "layer", "model", "published"]


class Weight(NamedTuple):
    """A parameter that takes part, with the axes that run within one of its filters."""

    name: str
    parameter: nn.Parameter
    axes: tuple[int, ...]


def weights_of(model: nn.Module, frozen: Sequence[str] = ()) -> list[Weight]:
    """The trainable parameters of `model` whose names match none of the patterns `frozen`, each once.

    A pattern is a parameter name with wildcards (`*`, `?`, `[...]`). Raises InputError when nothing is left.
    """
    found = []
    for prefix, module in model.named_modules():
        declared = {**_torch_axes(module), **getattr(module, "filter_axes", {})}
        for short, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{short}" if prefix else short
            known = any(parameter is other.parameter for other in found)
            if parameter.requires_grad and not known and not any(fnmatchcase(name, p) for p in frozen):
                default = (-2,) if parameter.ndim >= 2 else tuple(range(parameter.ndim))
                found.append(Weight(name, parameter, tuple(declared.get(short, default))))
    if not found:
        raise InputError(f"no trainable parameter is left to be moved; frozen patterns are {list(frozen)}")
    return found


def _torch_axes(module: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return next((axes for kind, axes in TORCH_AXES.items() if isinstance(module, kind)), {})


def frozen_of(model: nn.Module, frozen: Sequence[str]) -> list[FrozenWeights]:
    """The parameters that `weights_of` leaves where they are, each with the reason."""
    found = []
    for name, parameter in model.named_parameters():
        pattern = next((p for p in frozen if fnmatchcase(name, p)), None)
        if not parameter.requires_grad:
            found.append(FrozenWeights(name=name, weights=parameter.numel(), reason="not trained"))
        elif pattern is not None:
            reason = CONSTANTS.get(pattern, f"matches {pattern}")
            found.append(FrozenWeights(name=name, weights=parameter.numel(), reason=reason))
    return found


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one vector (W,), float64 on the CPU."""
    return torch.cat([t.detach().reshape(-1).to("cpu", torch.float64) for t in tensors])


def like(vector: Tensor, weights: Sequence[Weight]) -> list[Tensor]:
    """The vector (W,) cut into tensors of the weights' shapes."""
    parts = torch.split(vector, [w.parameter.numel() for w in weights])
    return [part.view(w.parameter.shape) for part, w in zip(parts, weights, strict=True)]


def draw(
    weights: Sequence[Weight],
    normalisation: Normalisation,
    count: int,
    generator: torch.Generator,
    rows: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """`count` random directions (D, W) and their mutual cosines (D, D), float64 on the CPU.

    `filter`, `layer` and `model` are Gaussian; each filter, parameter, or the whole vector gets the norm that it has in
    the weights; then the directions are made orthogonal, keeping their lengths. `published` is what the authors' code
    does to flat vectors, which is how e3nn stores weights: uniform on [0, 1) and scaled element by element, so that
    every direction is |θ|. Parameters that match a pattern in `rows` (matrices in the reference packages) are scaled by
    their first axis instead. These directions are far from orthogonal, as the cosines show.

    Raises InputError when there are fewer weights than directions to be made orthogonal.
    """
    size = sum(w.parameter.numel() for w in weights)
    if normalisation != "published" and size < count:
        raise InputError(f"{size} weights cannot hold {count} orthogonal directions; lower n_directions")
    found = torch.empty(count, size, dtype=torch.float64)
    for n in range(count):
        parts = []
        for weight in weights:
            shape, value = weight.parameter.shape, weight.parameter.detach().to("cpu", torch.float64)
            if normalisation == "published":
                delta = torch.rand(shape, generator=generator, dtype=torch.float64)
                by_row = any(fnmatchcase(weight.name, p) for p in rows) and value.ndim > 1
                axes = tuple(range(1, value.ndim)) if by_row else ()
            else:
                delta = torch.randn(shape, generator=generator, dtype=torch.float64)
                axes = weight.axes if normalisation == "filter" else tuple(range(value.ndim))
            parts.append(delta if normalisation == "model" else _scaled(delta, value, axes))
        found[n] = flat(parts)
    if normalisation == "model":
        found *= flat([w.parameter for w in weights]).norm() / found.norm(dim=1, keepdim=True)
    if normalisation != "published":
        found = _orthogonal(found)
    unit = found / found.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return found, unit @ unit.T


def _scaled(delta: Tensor, value: Tensor, axes: tuple[int, ...]) -> Tensor:
    if not axes:
        return delta.sign() * value.abs()
    length = delta.square().sum(axes, keepdim=True).sqrt()
    return delta / length.clamp_min(torch.finfo(torch.float64).tiny) * value.square().sum(axes, keepdim=True).sqrt()


def _orthogonal(directions: Tensor) -> Tensor:
    basis, mixing = torch.linalg.qr(directions.T)  # (W, D); columns are directions up to sign
    return (basis * mixing.diagonal().sign()).T * directions.norm(dim=1, keepdim=True)
