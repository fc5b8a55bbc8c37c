"""Every recording of a public implementation (tests/reference/*.json) is met by our model with its weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.data.structure import Structure
from fireassay.models import MODELS
from fireassay.potential import LocalPotential
from fireassay.testing import Recorded, assert_potential_contract

REFERENCE = Path(__file__).parent / "reference"
RECORDINGS = {path.stem: json.loads(path.read_text()) for path in sorted(REFERENCE.glob("*.json"))}
RTOL = {"float64": 1e-9, "float32": 1e-5}


def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{case}.npz") as archive:
        return dict(archive)


def model(case: str) -> LocalPotential:
    """Our model with the recorded weights, float64."""
    content = RECORDINGS[case]
    weights = {key[8:]: torch.from_numpy(a) for key, a in arrays(case).items() if key.startswith("weights/")}
    potential = MODELS[content["model"]](**content["arguments"]).to(torch.float64)
    potential.load_state_dict(weights)
    return potential


def recordings(case: str) -> list[Recorded]:
    given, out = arrays(case), []
    for kind in ("molecule", "crystal"):
        names = ("atomic_numbers", "positions", "cell", "pbc")
        structure = Structure(*(given[f"{kind}/{name}"] for name in names))
        for dtype, rtol in {**RTOL, **RECORDINGS[case].get("rtol", {})}.items():
            if f"{kind}/{dtype}/energy" in given:
                out.append(
                    Recorded(
                        make=lambda: model(case),
                        structure=structure,
                        energy=float(given[f"{kind}/{dtype}/energy"]),
                        forces=given[f"{kind}/{dtype}/forces"],
                        source=f"{case}, {RECORDINGS[case]['versions']}",
                        rtol=rtol,
                        dtype=getattr(torch, dtype),
                    )
                )
    return out


@pytest.mark.reference
@pytest.mark.parametrize("case", RECORDINGS)
def test_the_public_package_gives_the_same_numbers(case):
    given = recordings(case)
    assert len(given) >= 2
    assert assert_potential_contract(lambda: model(case), recorded=given, laws=["reference"]) == ["reference"]


@pytest.mark.reference
def test_every_model_has_a_recording():
    recorded = {content["model"] for content in RECORDINGS.values()} | {"mace"}  # tests/models/test_mace.py
    assert recorded == set(MODELS)
