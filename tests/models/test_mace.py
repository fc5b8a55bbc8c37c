"""MACE obeys the contract and gives the numbers of the public package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.mace_weights import copy_mace_torch
from fireassay.models.mace import MACE
from fireassay.testing import Recorded, assert_potential_contract

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = sorted(path.stem for path in REFERENCE.glob("mace_*.npz"))
SMALL = {"channels": 4, "radial_hidden": (8,), "readout_hidden": 3, "l_max": 2, "correlation": 2}


def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{case}.npz") as archive:
        return dict(archive)


def recorded(case: str) -> MACE:
    """The model with mace-torch's weights, float64."""
    data = arrays(case)
    model = MACE(**json.loads(str(data["arguments"]))).to(torch.float64)
    copy_mace_torch(model, {k[8:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("weights/")})
    return model


def records(case: str) -> list[Recorded]:
    """Energies relative to isolated atoms, whose energy mace-torch keeps when the first layer has a residual."""
    data = arrays(case)
    species = json.loads(str(data["arguments"]))["species"]
    out = []
    for kind in (0, 1):
        numbers, cell = data[f"{kind}/numbers"], data[f"{kind}/cell"]
        structure = Structure(numbers, data[f"{kind}/positions"], cell, np.full(3, bool(cell.any())))
        for dtype, rtol in (("float64", 1e-9), ("float32", 1e-5)):
            isolated = data[f"isolated/{dtype}"][[species.index(z) for z in numbers]].sum()
            out.append(
                Recorded(
                    make=lambda: recorded(case),
                    structure=structure,
                    energy=float(data[f"{kind}/energy/{dtype}"]) - isolated,
                    forces=data[f"{kind}/forces/{dtype}"],
                    source="mace-torch 0.3.16, tests/reference/record_mace.py",
                    rtol=rtol,
                    dtype=getattr(torch, dtype),
                )
            )
    return out


@pytest.mark.contract
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_l_max": 0, "correlation": 3},
        {"n_layers": 1},
        {"residual_first": True, "n_layers": 3},
        {"density_normalised": True, "distance_transform": "agnesi", "pair_repulsion": True},
        {"density_normalised": True, "residual_first": True, "distance_transform": "soft"},
    ],
)
def test_contract(options):
    assert_potential_contract(lambda: MACE((1, 6, 8), cutoff=4.0, **{**SMALL, **options}))


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_the_public_package_gives_the_same_numbers(case):
    laws = assert_potential_contract(lambda: recorded(case), recorded=records(case), laws=["reference"])
    assert laws == ["reference"]
    assert len(CASES) == 4


def test_weights_of_another_architecture_are_refused():
    data = arrays("mace_vector")
    weights = {k[8:]: torch.from_numpy(v) for k, v in data.items() if k.startswith("weights/")}
    arguments = json.loads(str(data["arguments"]))
    with pytest.raises(InputError, match="other architecture"):
        copy_mace_torch(MACE(**{**arguments, "channels": 5}), weights)
    with pytest.raises(InputError, match="other architecture"):
        copy_mace_torch(MACE(**{**arguments, "correlation": 3}), weights)


def test_sizes_out_of_range_are_refused():
    with pytest.raises(InputError, match="must be positive"):
        MACE((1, 6, 8), channels=0)
    with pytest.raises(InputError, match="known are agnesi"):
        MACE((1, 6, 8), distance_transform="hard")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual_first": True},
        {"density_normalised": True, "pair_repulsion": True},
        {"density_normalised": True, "distance_transform": "agnesi"},
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 3e-5)])
def test_the_frozen_twin_predicts_the_same(options, dtype, tolerance):
    model = MACE((1, 6, 8), cutoff=4.0, **SMALL, **options).to(dtype)
    data = arrays("mace_tensor")
    structures = [
        Structure(data[f"{k}/numbers"], data[f"{k}/positions"], data[f"{k}/cell"], np.full(3, k == 1)) for k in (0, 1)
    ]
    graph = from_structures(structures, 5.0, dtype)  # with edges beyond the cutoff
    expected, got = model.predict(graph, stress=True), model.frozen().predict(graph, stress=True)
    assert model.predict(graph).energy.equal(expected.energy)
    for name in ("energy", "forces", "stress", "descriptors"):
        a, b = getattr(got, name), getattr(expected, name)
        if name == "stress":  # a molecule has none
            a, b = a[1], b[1]
        assert (a - b).abs().max() < tolerance * b.abs().max(), name
