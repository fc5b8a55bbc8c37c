"""What is particular to Allegro: strict locality, its options under the laws, what enters the energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import build
from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.allegro import Allegro
from fireassay.nn.mlp import ScalarMLP
from fireassay.testing import assert_potential_contract

OPTIONS = [
    {"two_body": "product", "own_edge": False, "update_ratio": [1.0, 2**-0.5]},
    {"n_layers": 3, "l_max": 3, "channels": 2},
    {"n_layers": 1, "l_max": 1, "parity": False, "readout_activation": "silu"},
    {"l_max": 0},
]


@pytest.mark.contract
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_obeys_the_laws(options):
    assert_potential_contract(lambda: build("allegro", **options))


def chain(n: int = 4, spacing: float = 3.0, extra: float = 0.0) -> Graph:
    """Atoms in a row that see only the next; the last is moved away by `extra`."""
    positions = np.zeros((n, 3))
    positions[:, 0] = spacing * np.arange(n)
    positions[-1, 1] += extra
    return from_structures([Structure(np.array([8, 1] * n)[:n], positions)], 4.0)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_no_layer_reaches_farther_than_the_cutoff(n_layers):
    model = build("allegro", n_layers=n_layers).to(torch.float64)
    one, two = (model.predict(chain(extra=extra)) for extra in (0.0, 0.5))
    assert one.atom_energies is not None
    assert two.atom_energies is not None
    changed = (one.atom_energies - two.atom_energies).abs() > 1e-9
    assert changed.tolist() == [False, False, True, True]


def molecule() -> Graph:
    points = np.random.default_rng(1).uniform(-1.6, 1.6, (6, 3))
    return from_structures([Structure(np.array([8, 1, 1, 8, 1, 1]), points)], 4.0)


def test_a_linear_readout_is_that_of_the_descriptors():
    model = build("allegro").to(torch.float64)
    prediction = model.predict(molecule())
    assert isinstance(model, Allegro)
    assert prediction.descriptors is not None
    with torch.no_grad():
        energies = model.readout(prediction.descriptors).squeeze(1)
    torch.testing.assert_close(energies, prediction.atom_energies)


def test_a_readout_that_is_not_linear_is_applied_to_every_pair():
    arguments = {"readout_hidden": [4], "seed": 3}
    linear, curved = (build("allegro", readout_activation=a, **arguments) for a in (None, "silu"))
    curved.load_state_dict(linear.state_dict())
    graph = molecule().to(dtype=torch.float32)
    assert isinstance(curved, Allegro)
    assert (linear.predict(graph).energy - curved.predict(graph).energy).abs() > 1e-4
    with torch.no_grad():
        energies, descriptors = curved.local(graph)
        assert (curved.readout(descriptors).squeeze(1) - energies).abs().max() > 1e-4


@pytest.mark.parametrize("part", ["initial", "embed", "mix", "latent"])
def test_every_part_of_a_layer_matters(part):
    model, graph = build("allegro").to(torch.float64), molecule()
    before = model.predict(graph).energy
    layer = model.layers[0]  # type: ignore[index]
    for network in getattr(layer, part) if part == "mix" else [getattr(layer, part)]:
        assert isinstance(network, ScalarMLP)
        with torch.no_grad():
            network.weights[0].mul_(1.5)
        after = model.predict(graph).energy
        assert (after - before).abs() > 1e-9
        before = after


def test_the_environment_without_the_edge_itself_is_another():
    with_it, without = (build("allegro", own_edge=own).to(torch.float64) for own in (True, False))
    pair = from_structures([Structure(np.array([8, 1]), np.array([[0.0, 0, 0], [1.1, 0, 0]]))], 4.0)
    again = build("allegro", own_edge=False, seed=5).to(torch.float64)
    again.two_body.load_state_dict(without.two_body.state_dict())  # type: ignore[union-attr]
    for layer, other in zip(again.layers, without.layers, strict=True):  # type: ignore[arg-type]
        with torch.no_grad():
            layer.latent.weights[0][:12] = other.latent.weights[0][:12]
            layer.latent.weights[1].copy_(other.latent.weights[1])
    again.readout.load_state_dict(without.readout.state_dict())  # type: ignore[union-attr]
    # Two atoms alone have no other edges: what a tensor product would take from them is nothing.
    torch.testing.assert_close(again.predict(pair).energy, without.predict(pair).energy)
    assert (with_it.predict(pair).energy - without.predict(pair).energy).abs() > 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        {"two_body_widths": [8, 16]},
        {"latent_widths": []},
        {"update_ratio": [0.5]},
        {"two_body": "both"},
        {"own_edge": False, "average_neighbours": 1.0},
        {"two_body": "product", "two_body_widths": [7, 12]},
        {"readout_activation": "tanh"},
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(InputError):
        build("allegro", **wrong)
