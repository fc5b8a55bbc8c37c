"""The untrained potential on its baseline: where energies start, and where a cutoff comes from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from architectures import SMALL
from fireassay.config import Config
from fireassay.data.baseline import fit_e0, isolated_atoms
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models import MODELS
from fireassay.pipeline.material import Material, read_material
from fireassay.pipeline.train import Built, build
from fireassay.progress import Silent
from fireassay.settings import validated


def config(model: dict, **changes) -> Config:
    content = {
        "data": {"train": "3bpa-xtb/train_300K", "validation": {"count": 20}, "limit": 60},
        "dtype": "float64",
        "model": {"cutoff": 4.0, **model},
    }
    return validated(Config, {**content, **changes}, "test")


@pytest.fixture(scope="module")
def material() -> Material:
    return read_material(config({"type": "painn"}).data, 0)


def made(material: Material, model: dict, **changes) -> Built:
    return build(config(model, **changes), material, Silent())


def energy_errors(built: Built, structures) -> np.ndarray:
    """Prediction minus reference per atom, eV."""
    dataset = built.train if structures is None else structures
    batch = dataset.select(range(len(dataset)))
    found = built.potential.predict(batch.graph, forces=False).energy.numpy()
    return (found - batch.labels.energy.numpy()) / dataset.structure_sizes.numpy()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_an_untrained_potential_starts_at_the_spread_of_the_data(material, name):
    """However large the random mean of its weights, its energies begin without an offset, on held-out frames too."""
    small = {key: value for key, value in SMALL.get(name, {}).items() if key != "short_cutoff"}
    built = made(material, {"type": name, **small}, baseline={"e0": "fit", "scale": 3.0})
    spread = fit_e0(material.train).residual_rms
    train, held = energy_errors(built, None), energy_errors(built, built.validation)
    network = energy_errors(built, None) + np.array([s.energy / len(s) for s in material.train])
    own = np.sqrt(spread**2 + np.std(network) ** 2)
    assert abs(train.mean()) < 1e-6 + 1e-3 * np.std(train)
    assert np.sqrt(np.mean(train**2)) < 1.2 * own
    assert abs(held.mean()) < own


def test_without_the_correction_it_would_not(material):
    """The test above can fail: the same network over the plain fit is off by more than the spread."""
    built = made(material, {"type": "nequip", **SMALL["nequip"]}, baseline={"e0": "fit", "scale": 3.0})
    plain = fit_e0(material.train)
    off = [sum(built.potential.arguments["e0"][int(z)] - plain.e0[int(z)] for z in s.atomic_numbers) / len(s)
           for s in material.train]  # fmt: skip
    assert abs(np.mean(off)) > 5 * plain.residual_rms


def test_a_shift_by_the_mean_counts_the_network_too(material):
    built = made(material, {"type": "painn", **SMALL["painn"]}, baseline={"e0": "zero", "scale": 3.0, "shift": "mean"})
    assert abs(energy_errors(built, None).mean()) < 1e-6


def test_given_energies_of_isolated_atoms_stay_as_given(material):
    e0 = {"H": -10.0, "C": -50.0, "N": -70.0, "O": -100.0}
    built = made(material, {"type": "painn", **SMALL["painn"]}, baseline={"e0": e0})
    assert built.potential.arguments["e0"] == {1: -10.0, 6: -50.0, 7: -70.0, 8: -100.0}
    assert built.baseline.e0.e0 == e0
    assert built.baseline.e0.source == "given"


def test_the_record_says_where_e0_comes_from(material):
    record = made(material, {"type": "painn", **SMALL["painn"]}).baseline
    assert record.e0.source == "fit"
    assert (record.e0.rank, set(record.e0.e0)) == (1, {"H", "C", "N", "O"})
    assert record.scale["H"] > 0
    assert record.average_neighbours > 1


@pytest.mark.parametrize(
    "model",
    [
        {"type": "nequip", "cutoff": 3.7, "species": [1, 6, 7, 8], "pair_cutoffs": [[3.7, 3.0, 3.0, 3.0]] * 4},
        {"type": "nequip", "cutoff": 3.7, "species": [1, 6, 7, 8], "average_neighbours": [4.0, 9.0, 8.0, 7.0]},
        {"type": "mace", "cutoff": 3.7},
    ],
)
def test_the_cutoff_is_the_settings_own(material, model):
    """No network is needed to learn it, so settings that depend on the species do not get in the way."""
    built = made(material, {**SMALL[model["type"]], **model})
    assert built.train.cutoff == built.potential.cutoff == 3.7


def test_settings_that_only_the_constructor_can_judge_are_one_line(material):
    with pytest.raises(InputError) as caught:
        made(material, {"type": "nequip", "average_neighbours": [4.0, 9.0]})
    assert "\n" not in str(caught.value)


def charged(material: Material, charges) -> Material:
    def of(frames):
        return [replace(s, charge=float(q)) for s, q in zip(frames, charges, strict=False)]

    return replace(material, train=of(material.train), validation=of(material.validation))


def test_frames_that_differ_by_charge_alone_are_refused_but_where_it_is_used(material):
    both = charged(material, np.arange(len(material.train)) % 2)
    with pytest.raises(InputError, match="a potential that does not use charge cannot fit both"):
        made(both, {"type": "painn", **SMALL["painn"]})
    physnet = {key: value for key, value in SMALL["physnet"].items() if key != "short_cutoff"}
    advised = {**physnet, "charge_conservation": "total"}
    assert made(both, {"type": "physnet", **advised}).notes == ()
    same = charged(material, np.ones(len(material.train)))
    assert made(same, {"type": "painn", **SMALL["painn"]}).notes == ()


def without(frame: Structure, atom: int) -> Structure:
    """A frame of another composition, so that the compositions alone decide every E0."""
    left = np.delete(np.arange(len(frame)), atom)
    return Structure(frame.atomic_numbers[left], frame.positions[left], energy=frame.energy, forces=frame.forces[left])


def test_isolated_atoms_that_a_fit_misses_are_said(material):
    """A fitted E0 is a mean in molecules, electronvolts from the free atom; the way that is named mends it."""
    atoms = read("3bpa-xtb/isolated_atoms")
    model = {"type": "painn", **SMALL["painn"]}
    others = [without(frame, number % 27) for number, frame in enumerate(material.train)]
    some = replace(material, train=[*others, atoms[0]])
    (note,) = made(some, model).notes
    assert note.startswith("E0 misses the isolated atoms among the training frames")
    assert "add those of" in note
    every = replace(material, train=[*material.train, *atoms], isolated=isolated_atoms(atoms))
    (note,) = made(every, model).notes
    assert "take them with baseline.e0=isolated" in note
    assert made(every, model, baseline={"e0": "isolated"}).notes == ()
    assert made(material, model).notes == ()
