"""D3: two public programs' numbers, the coefficients against the plain double sum, a smooth end, derivatives."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.dispersion import BOHR, HARTREE_FOCK, D3Dispersion, _data
from fireassay.nn.pairwise import AtomPairs

RECORDED = Path(__file__).parents[1] / "reference" / "d3.npz"  # by tests/reference/record_d3.py
PBE = (1.0, 0.7875, 0.4289, 4.4407)
SPECIES = (1, 6, 8, 29)


def energies(d3: D3Dispersion, numbers: np.ndarray, positions: Tensor, mutual: bool = True) -> Tensor:
    rows = torch.tensor([SPECIES.index(z) for z in numbers])
    n = len(numbers)
    i, j = torch.triu_indices(n, n, 1) if mutual else torch.nonzero(~torch.eye(n, dtype=torch.bool)).T
    return d3(rows, AtomPairs(i, j, (positions[j] - positions[i]).norm(dim=1), mutual))


def recorded(kind: str) -> tuple[np.ndarray, Tensor, dict[str, np.ndarray]]:
    with np.load(RECORDED) as archive:
        given = {key.removeprefix(f"{kind}/"): archive[key] for key in archive.files if key.startswith(kind)}
    return given["atomic_numbers"], torch.from_numpy(given["positions"]), given


@pytest.mark.parametrize(("program", "rtol"), [("torch_dftd", 3e-8), ("dftd3", 2e-6)])
@pytest.mark.parametrize("method", ["hf", "pbe"])
@pytest.mark.parametrize("kind", ["random", "benzene"])
def test_public_programs_give_the_same_numbers(kind, method, program, rtol):
    """dftd3 has more digits of the bohr, the Hartree and the radii than the tables that torch-dftd and PhysNet have."""
    numbers, positions, given = recorded(kind)
    d3 = D3Dispersion(SPECIES, 1000.0, {"hf": HARTREE_FOCK, "pbe": PBE}[method], trainable=False).double()
    positions.requires_grad_()
    energy = energies(d3, numbers, positions).sum()
    forces = -torch.autograd.grad(energy, positions)[0].numpy()
    np.testing.assert_allclose(energy.item(), given[f"{method}/{program}/energy"], rtol=rtol)
    expected = given[f"{method}/{program}/forces"]
    np.testing.assert_allclose(forces, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_pairs_in_both_directions_are_mutual_pairs():
    numbers, positions, _ = recorded("random")
    d3 = D3Dispersion(SPECIES, 6.0).double()
    each = energies(d3, numbers, positions, mutual=False)
    torch.testing.assert_close(energies(d3, numbers, positions), each, rtol=1e-12, atol=0)


def test_the_interpolation_is_the_published_double_sum():
    data = _data()
    assert (len(data["coordination"]), len(data["c6"])) == (254, 254 * 255 // 2)
    d3 = D3Dispersion(SPECIES, 10.0).double()
    generator = torch.Generator().manual_seed(0)
    counts = 4.5 * torch.rand(4, generator=generator, dtype=torch.float64)
    rows, i, j = torch.arange(4), *torch.triu_indices(4, 4, 1)
    got = d3._c6(rows, AtomPairs(i, j, torch.ones(6), True), counts)
    for c6, a, b in zip(got, i, j, strict=True):
        above = below = 0.0
        for p, q in np.ndindex(5, 5):
            if not d3.missing[a, p] and not d3.missing[b, q]:
                first, second = d3.references[a, p].item() / 1e4, d3.references[b, q].item() / 1e4
                weight = exp(-4 * ((counts[a].item() - first) ** 2 + (counts[b].item() - second) ** 2))
                above, below = above + weight * d3.c6[a, p, b, q].item() / 1e4, below + weight
        assert c6.item() == pytest.approx(above / below, rel=1e-12)


def test_an_atom_far_from_every_reference_has_its_nearest():
    """Where all the weights of the double sum underflow, the ratio of their sums does not exist."""
    d3 = D3Dispersion((1,), 10.0).float()
    pair = AtomPairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1), True)
    assert torch.exp(torch.tensor(-4 * 30.0**2)) == 0
    c6 = d3._c6(torch.zeros(2, dtype=torch.int64), pair, torch.full((2,), 30.0))
    assert c6.item() == pytest.approx(3.0267, rel=1e-6)  # of two hydrogens with one neighbour each


def test_it_ends_with_no_energy_and_no_slope():
    d3 = D3Dispersion((6,), 5.0).double()
    d = torch.tensor([3.0, 5 - 1e-5, 5.0, 5.5], dtype=torch.float64, requires_grad=True)
    rows, first, second = torch.zeros(8, dtype=torch.int64), torch.arange(4), torch.arange(4, 8)
    energy = d3(rows, AtomPairs(first, second, d, True))[:4]
    (slope,) = torch.autograd.grad(energy.sum(), d)
    assert energy[0] < -1e-3
    assert slope[0] > 1e-3
    assert (energy[1:].abs() < 1e-12).all()
    assert (slope[1:].abs() < 1e-6).all()
    assert (energy[2:] == 0).all()


def test_coefficients_stay_positive_and_are_learned():
    numbers, positions, _ = recorded("random")
    d3 = D3Dispersion(SPECIES, 6.0).double()
    torch.testing.assert_close(
        torch.stack(list(d3.s6_s8_a1_a2())), torch.tensor(HARTREE_FOCK).double(), rtol=1e-6, atol=0
    )
    fixed = D3Dispersion(SPECIES, 6.0, trainable=False).double()
    expected = energies(fixed, numbers, positions)
    torch.testing.assert_close(energies(d3, numbers, positions), expected, rtol=1e-6, atol=0)
    energies(d3, numbers, positions).sum().backward()
    assert (d3.raw.grad.abs() > 1e-6).all()
    assert not list(fixed.parameters())


def test_derivatives():
    d3 = D3Dispersion((1, 8), 4.0).double()
    rows, i, j = torch.tensor([0, 1, 1, 0]), *torch.triu_indices(4, 4, 1)
    d = torch.linspace(1.2, 3.9, 6, dtype=torch.float64, requires_grad=True)

    def energy(distances: Tensor, raw: Tensor) -> Tensor:
        return torch.func.functional_call(d3, {"raw": raw}, (rows, AtomPairs(i, j, distances, True)))

    arguments = (d, d3.raw.detach().requires_grad_())
    assert torch.autograd.gradcheck(energy, arguments)
    assert torch.autograd.gradgradcheck(energy, arguments)


def test_single_precision():
    numbers, positions, _ = recorded("random")
    d3 = D3Dispersion(SPECIES, 6.0)
    single = energies(d3, numbers, positions.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), energies(d3.double(), numbers, positions), rtol=2e-5, atol=0)


def test_the_reference_data_keep_their_digits_in_double_precision():
    d3 = D3Dispersion((6,), 5.0).float().double()
    assert d3.radii.item() * 0.75 * BOHR == pytest.approx(0.75, abs=1e-7)
    assert d3.radii.item() == float(np.float32(d3.radii.item()))
    assert not d3.c6.is_floating_point()


def test_input_that_is_refused():
    with pytest.raises(InputError, match=r"\[95\]"):
        D3Dispersion((1, 95), 5.0)
    with pytest.raises(InputError, match="four coefficients"):
        D3Dispersion((1,), 5.0, (1.0, 1.0, 0.0, 5.0))
    with pytest.raises(InputError, match="four coefficients"):
        D3Dispersion((1,), 5.0, (1.0,))
    D3Dispersion((1,), 5.0, (0.5, 0.213, 0.0, 6.0519), trainable=False)
