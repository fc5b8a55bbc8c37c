"""SO3krates: its options obey the contract, and each mechanism of the architecture has its effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.so3krates import SO3krates
from fireassay.testing import LAWS, assert_potential_contract

SMALL: dict[str, Any] = {"species": [1, 8], "cutoff": 4.0, "channels": 12, "n_layers": 2, "n_heads": 2, "n_basis": 8}
OPTIONS: list[dict[str, Any]] = [
    {"degrees": [1, 2, 3, 4], "residual_attention": True, "residual_update": True},
    {"degrees": [1, 3], "initial_chi": "neighbours", "average_neighbours": 7.0, "layer_norm": True},
    {"degrees": [2], "envelope_p": 6, "radial_hidden": [], "spherical_hidden": [5, 4], "readout_hidden": []},
]
POSITIONS = np.array([[0.0, 0, 0], [1.1, 0.2, 0.1], [-0.4, 1.2, 0.3], [0.3, -0.5, 1.4]])


def graph(positions: np.ndarray = POSITIONS) -> Graph:
    return from_structures([Structure(np.array([8, 1, 1, 8]), positions)], 4.0)


def model(**arguments: Any) -> SO3krates:
    return SO3krates(**{**SMALL, **arguments}).to(torch.float64)


@pytest.mark.contract
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_obeys_the_contract(options):
    assert len(assert_potential_contract(lambda: SO3krates(**{**SMALL, **options}))) == len(LAWS) - 1


@pytest.mark.parametrize("options", OPTIONS)
def test_the_frozen_twin_of_every_option_predicts_the_same(options):
    potential = model(**options)
    expected, got = potential.predict(graph()), potential.frozen().predict(graph())
    torch.testing.assert_close(got.energy, expected.energy, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got.forces, expected.forces, rtol=1e-5, atol=1e-7)


def test_angles_are_seen_through_the_euclidean_variables_alone():
    """With the same distances to an atom, an angle matters; without the filters of χ and its norm, it does not."""
    potential = model(n_layers=1)
    straight = np.array([[0.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    bent = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])

    def centre(positions: np.ndarray) -> float:
        prediction = potential.predict(from_structures([Structure(np.array([8, 1, 1]), positions)], 4.0))
        assert prediction.atom_energies is not None
        return prediction.atom_energies[0].item()

    assert abs(centre(straight) - centre(bent)) > 1e-6
    with torch.no_grad():
        potential.layers[0].update.weight[:, 12:] = 0
    assert centre(straight) == pytest.approx(centre(bent), abs=1e-12)


def test_attention_depends_on_query_key_and_both_filters():
    potential = model(initial_chi="neighbours", layer_norm=True)
    before = potential.predict(graph()).energy
    layer = potential.layers[0]
    for weight in (layer.features.projections, layer.features.radial[0].weight, layer.features.spherical[0].weight):
        with torch.no_grad():
            kept = weight.clone()
            weight.mul_(1.5)
        assert (potential.predict(graph()).energy - before).abs() > 1e-6
        with torch.no_grad():
            weight.copy_(kept)
    assert torch.equal(potential.predict(graph()).energy, before)


def test_edges_without_a_reverse_have_their_own_filters():
    """A graph that is not symmetric, such as one side of a cut, gives what the sum over its edges says."""
    potential, whole = model(), graph()
    keep = whole.centre != 3
    cut = whole._replace(centre=whole.centre[keep], neighbour=whole.neighbour[keep], shift=whole.shift[keep])
    energies = potential.local(cut)[0]
    assert energies[3].abs() < 1e-12
    expected = potential.predict(whole).atom_energies
    assert expected is not None
    assert (energies[:3] - expected[:3]).abs().max() > 1e-8  # the second layer sees that atom 3 knows nobody


def test_zeros_and_neighbours_start_differently():
    zeros, neighbours = (model(initial_chi=kind).predict(graph()).energy for kind in ("zeros", "neighbours"))
    assert (zeros - neighbours).abs() > 1e-6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"channels": 13}, "multiple"),
        ({"degrees": [1, 2, 3, 4, 5]}, "multiple"),
        ({"degrees": []}, "degrees"),
        ({"degrees": [2, 1]}, "degrees"),
        ({"degrees": [0, 1]}, "positive"),
        ({"envelope_p": 0}, "positive"),
        ({"n_heads": 0}, "positive"),
        ({"initial_chi": "random"}, "random"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        SO3krates(**{**SMALL, **wrong})


def test_the_energy_is_smooth_in_the_last_digit_of_the_cutoff():
    """Every message carries the envelope: an edge just inside the cutoff weighs nothing."""
    structure = Structure(np.array([8, 1]), np.array([[0.0, 0, 0], [4.0 - 1e-7, 0, 0]]))
    pair, potential = from_structures([structure], 4.0), model()
    assert pair.n_edges == 2
    lone = potential.predict(from_structures([replace(structure, positions=structure.positions * 1.1)], 4.0)).energy
    assert (potential.predict(pair).energy - lone).abs() < 1e-12
