"""What is particular to PaiNN: its messages and updates against the equations, its bases, what its vectors are for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from fireassay.data.graph import Graph, edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.painn import Message, PaiNN, Update
from fireassay.testing import assert_potential_contract

SMALL: dict[str, Any] = {
    "species": [1, 8],
    "cutoff": 4.0,
    "n_layers": 3,
    "channels": 8,
    "n_basis": 6,
    "readout_hidden": [4],
}


def graph(n: int = 4, seed: int = 1) -> Graph:
    rng = np.random.default_rng(seed)
    return from_structures([Structure(rng.choice([1, 8], n), rng.uniform(0, 3.5, (n, 3)))], 4.0)


def padded(x: Tensor, size: int) -> Tensor:
    """With zeros for the weights that a first layer does not have."""
    return torch.nn.functional.pad(x, (0, size - x.shape[-1]))


def written_out(model: PaiNN, given: Graph) -> Tensor:
    """Atom energies of eqs. 7 to 10, edge by edge, with nothing left out or shared."""
    species, channels = model.index(given.atomic_numbers), model.embedding.shape[1]
    r = edge_vectors(given)
    s, v = model.embedding[species], torch.zeros(given.n_atoms, 3, channels, dtype=torch.float64)
    messages, updates = cast(list[Message], list(model.messages)), cast(list[Update], list(model.updates))
    for message, update in zip(messages, updates, strict=True):
        phi = padded(message.context(s), 3 * channels)
        ds, dv = torch.zeros_like(s), torch.zeros_like(v)
        for e, (i, j) in enumerate(zip(given.centre.tolist(), given.neighbour.tolist(), strict=True)):
            d = torch.linalg.vector_norm(r[e])
            radial = torch.sin(torch.arange(1, 7, dtype=torch.float64) * torch.pi * d / 4) / d
            w = (
                (radial @ message.filter.weight[:-1] + message.filter.weight[-1])
                * (1 + torch.cos(torch.pi * d / 4))
                / 2
            )
            first, second, third = (phi[j] * padded(w, 3 * channels)).split(channels)
            ds[i] += first
            dv[i] += torch.outer(r[e] / d, second) + v[j] * third
        s, v = s + ds, v + dv
        measured, gated = (v @ part.T for part in update.mix.weight.split(channels))
        norm = (measured.square().sum(1) + model.arguments["epsilon"]).sqrt()
        a_ss, a_sv, *a_vv = update.context(torch.cat([s, norm], 1)).split(channels, 1)
        s = s + a_ss + a_sv * (measured * gated).sum(1)
        v = v + a_vv[0].unsqueeze(1) * gated if a_vv else v
    return model.readout(s).squeeze(1)


def test_it_is_its_equations():
    model, given = PaiNN(**SMALL).to(torch.float64), graph()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        alone = from_structures([Structure(np.array([z]), np.zeros((1, 3))) for z in (1, 8)], 4.0)
        isolated = written_out(model, alone)
        expected = written_out(model, given) - isolated[model.index(given.atomic_numbers)]
        torch.testing.assert_close(model.local(given)[0], expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("options", [{"basis": "gaussian"}, {"n_layers": 1}, {"n_layers": 2, "readout_hidden": []}])
def test_options_obey_the_contract(options):
    assert_potential_contract(lambda: PaiNN(**{**SMALL, **options}), laws=["forces", "continuity", "isolated_atom"])


def test_vectors_see_the_angles_that_distances_do_not():
    """Two neighbours out of each other's sight, at 180 and at 130 degrees from the centre, with one layer."""
    model = PaiNN(**{**SMALL, "n_layers": 1}).to(torch.float64)
    energies = []
    for angle in (np.pi, 2.3):
        ends = 2.5 * np.array([[1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
        given = from_structures([Structure(np.array([8, 1, 1]), np.concatenate([np.zeros((1, 3)), ends]))], 4.0)
        energies.append(model.local(given)[0])
    assert (energies[0][0] - energies[1][0]).abs() > 1e-4
    torch.testing.assert_close(energies[0][1:], energies[1][1:])


def test_a_kink_where_vectors_vanish_has_the_width_that_epsilon_gives():
    """On the centre of symmetry between two atoms all vectors vanish: the force turns within sqrt(epsilon)."""

    def curvature(epsilon: float) -> float:
        model = PaiNN(**{**SMALL, "n_layers": 1, "epsilon": epsilon}).to(torch.float64)
        x = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [-1.5, 0, 0]], dtype=torch.float64)
        given = from_structures([Structure(np.array([8, 1, 1]), x.numpy())], 4.0)
        moved = torch.zeros_like(x)
        moved[0, 0] = 1e-5
        right, left = (model.predict(given._replace(positions=x + sign * moved)).forces for sign in (1, -1))
        assert right is not None
        assert left is not None
        return float((right - left)[0, 0].abs())

    assert curvature(1e-12) > 3 * curvature(1e-4)


def test_an_unknown_basis_is_refused():
    with pytest.raises(InputError, match="sines or Gaussians"):
        PaiNN(**{**SMALL, "basis": "bessel"})
