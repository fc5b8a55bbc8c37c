"""The weights of mace-torch in the architecture `models.mace`, which has the same parameters in another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.models.mace import MACE, EdgeDensity, Layer
from fireassay.nn.mlp import ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.so3 import sign_of_e3nn_0_4
from fireassay.nn.symmetric_contraction import Path, Polynomial, SymmetricContraction

Signs = Callable[[int, int, int], int]  # of a Clebsch-Gordan tensor (l1, l2, l3), relative to ours


@torch.no_grad()
def copy_mace_torch(model: MACE, state: Mapping[str, Tensor], signs: Signs = sign_of_e3nn_0_4) -> None:
    """Copies the weights of mace-torch 0.3 (a state dict of `MACE` or `ScaleShiftMACE`) of the same architecture.

    Sizes agree weight by weight. `signs` of (l1, l2, l3) are those of the Clebsch-Gordan tensors of its e3nn relative
    to ours. Where the state dict has the tensors U of the symmetric contractions, weights are carried to our basis of
    the same polynomials; without them they are those of e3nn 0.4 and of unreduced tensors.

    Raises InputError when an array is missing or has another size, or when a tensor U is not of our polynomials.
    """
    species = len(model.index)
    channels = model.embedding.shape[1]

    def copy(target: Tensor, name: str, *shape: int) -> None:
        value = state[name].detach() if name in state else torch.empty(0)
        if value.numel() != target.numel():
            found = tuple(value.shape) if name in state else "nothing"
            raise InputError(f"{name} of mace-torch: found {found}, need {target.numel()} numbers; other architecture")
        value = value.reshape(shape or target.shape)
        target.copy_(value.permute(2, 0, 1, 3) if len(shape) == 4 else value)

    copy(model.embedding, "node_embedding.linear.weight")
    frequencies = cast(BesselBasis, model.basis).frequencies
    if "radial_embedding.bessel_fn.bessel_weights" in state:
        copy(frequencies, "radial_embedding.bessel_fn.bessel_weights")
        frequencies.mul_(model.cutoff / torch.pi)
    layers, readouts = cast(list[Layer], list(model.layers)), cast(list[ScalarMLP], list(model.readouts))
    for number, (layer, readout) in enumerate(zip(layers, readouts, strict=True)):
        block = f"interactions.{number}"
        copy(layer.linear_up.weight, f"{block}.linear_up.weight")
        radial = cast(ScalarMLP, layer.radial)
        for k, weight in enumerate(radial.weights):
            copy(weight, f"{block}.conv_tp_weights.layer{k}.weight")
        coupling = layer.coupling
        sign = [signs(coupling.irreps_in[i].l, coupling.irreps_sh[j].l, out.l) for i, j, out in coupling.paths]
        radial.weights[-1].unflatten(1, (-1, channels)).mul_(torch.tensor(sign).unsqueeze(1))
        copy(layer.mix.weight, f"{block}.linear.weight")
        copy(layer.skip.weight, f"{block}.skip_tp.weight", -1, channels, species, channels)
        if isinstance(layer.density, EdgeDensity):
            copy(layer.density.weight, f"{block}.density_fn.layer0.weight")
        copy(layer.linear.weight, f"products.{number}.linear.weight")
        contraction = cast(SymmetricContraction, layer.contraction)
        _copy_contraction(contraction, state, f"products.{number}.symmetric_contractions.contractions", signs)
        linear = "linear" if len(readout.weights) == 1 else "linear_{}"
        for k, weight in enumerate(readout.weights):
            copy(weight, f"readouts.{number}.{linear.format(k + 1)}.weight")


def _copy_contraction(contraction: SymmetricContraction, state: Mapping[str, Tensor], name: str, signs: Signs) -> None:
    polynomial = contraction.polynomial
    for block in range(len(polynomial.irreps_out)):
        for degree in range(1, contraction.correlation + 1):
            rows = [k for k, path in enumerate(polynomial.paths) if (path.block, path.degree) == (block, degree)]
            below = contraction.correlation - degree
            source = f"{name}.{block}." + ("weights_max" if below == 0 else f"weights.{below - 1}")
            if source not in state:
                raise InputError(f"{source} of mace-torch is missing; other architecture")
            weight, tensor = state[source].to(contraction.weight), state.get(f"{name}.{block}.U_matrix_{degree}")
            paths = [polynomial.paths[k] for k in rows]
            if tensor is None and any(weight.shape[1] != path.siblings for path in paths):
                raise InputError(f"{source} of mace-torch has the shape {tuple(weight.shape)}; other architecture")
            change = _change(paths, weight.shape[1], signs) if tensor is None else _solved(polynomial, rows, tensor)
            contraction.weight[:, rows] = torch.einsum("kj,zjc->zkc", change.to(weight), weight)


def _change(paths: Sequence[Path], columns: int, signs: Signs) -> Tensor:
    """From the weights of e3nn's coupling trees to ours (K, columns): one sign for each tree that does not vanish."""
    out = torch.zeros(len(paths), columns)
    for k, path in enumerate(paths):
        out[k, path.index] = prod(signs(*coupling) for coupling in path.couplings)
    return out


def _solved(polynomial: Polynomial, rows: Sequence[int], tensor: Tensor) -> Tensor:
    """From the weights of a tensor U ((2l + 1,) M, ..., M, K') to those of our paths `rows`: (K, K').

    U is summed over the order of its factors, which are all the same, and written in our paths by least squares.
    """
    theirs = tensor.detach().to(torch.float64).numpy()
    if not rows or theirs.ndim < 2:
        return torch.zeros(len(rows), theirs.shape[-1])
    path = polynomial.paths[rows[0]]
    theirs = theirs.reshape(polynomial.irreps_out[path.block].dim, -1, theirs.shape[-1])
    size = polynomial.irreps_in.dim
    if theirs.shape[1] != size**path.degree:
        raise InputError(f"a tensor U of mace-torch has the shape {tuple(tensor.shape)}; other architecture")
    orders = np.sort(np.indices((size,) * path.degree).reshape(path.degree, -1), 0)  # each entry's monomial
    monomials, places = np.unique(orders, axis=1, return_inverse=True)
    known = np.zeros((monomials.shape[1], theirs.shape[0], theirs.shape[-1]))
    np.add.at(known, places.ravel(), theirs.swapaxes(0, 1))
    known = known.swapaxes(0, 1)
    number = {tuple(column): k for k, column in enumerate(monomials.T.tolist())}
    ours = np.zeros((*known.shape[:2], len(rows)))
    for component, monomial, coefficients in polynomial.terms(path.block, path.degree):
        ours[component, number[monomial]] = coefficients
    ours, known = ours.reshape(-1, len(rows)), known.reshape(-1, known.shape[-1])
    solution = np.linalg.lstsq(ours, known, rcond=1e-6)[0]
    if np.abs(ours @ solution - known).max() > 1e-5 * max(np.abs(known).max(), 1.0):
        raise InputError("a tensor U of mace-torch is not among the symmetric polynomials of ours; other architecture")
    return torch.from_numpy(solution)
