from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fireassay.config import load_config
from fireassay.data.datasets import Dataset
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Baseline, Prediction
from fireassay.training.loss import (
    Sums,
    check_labels,
    check_validation,
    errors_of,
    expected_denominators,
    metrics_of,
    sums_of,
    total,
)
from fireassay.training.recipe import EnergyTerm, ForcesTerm, Loss, Recipe, StressTerm
from fireassay.training.terms import Errors, SpeciesWeights, Weights, species_weights
from training.toy_frames import CUTOFF, labelled_frames, network

EQUAL = SpeciesWeights.equal()
FORMATE = {"Cu": "shared", "other": 1}


def predicted(dataset: Dataset, potential: Baseline, stress: bool = False) -> tuple[Errors, object]:
    batch = dataset.select(range(len(dataset)))
    return errors_of(potential.predict(batch.graph, True, stress, differentiable=True), batch), batch


def value(dataset: Dataset, loss: Loss, potential: Baseline, weights: Weights | None = None, stress=False) -> float:
    errors, batch = predicted(dataset, potential, stress)
    sums = sums_of(errors, batch, loss, species_weights(loss.forces, dataset), weights or Weights())
    return float(total(loss, sums.numerators, sums.denominators).detach())


def by_hand(dataset: Dataset, potential: Baseline) -> list[tuple[int, float, np.ndarray]]:
    """Size, energy error and force errors of each frame."""
    rows = []
    for number, structure in enumerate(dataset.structures):
        prediction = potential.predict(dataset.select([number]).graph)
        rows.append(
            (len(structure), float(prediction.energy[0]) - structure.energy, prediction.forces - structure.forces)
        )
    return [(n, e, f.numpy()) for n, e, f in rows]


def test_equation_9_of_nequip(train: Dataset, potential: Baseline) -> None:
    """λ_E |ΔE|² + λ_F (1/3N) Σ |ΔF|² per structure, averaged over structures."""
    loss = Loss(energy=EnergyTerm(weight=2.0, per_atom=False), forces=ForcesTerm(weight=7.0, average="structures"))
    expected = np.mean([2 * e**2 + 7 * np.sum(f**2) / (3 * n) for n, e, f in by_hand(train, potential)])
    assert value(train, loss, potential) == pytest.approx(expected, rel=1e-12)


def test_averages_over_atoms_and_energies_per_atom(train: Dataset, potential: Baseline) -> None:
    loss = Loss(energy=EnergyTerm(weight=2.0), forces=ForcesTerm(weight=7.0))
    rows = by_hand(train, potential)
    forces = np.concatenate([f for _, _, f in rows])
    expected = 2 * np.mean([(e / n) ** 2 for n, e, _ in rows]) + 7 * np.mean(forces**2)
    assert value(train, loss, potential) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["mae", "huber", "norm"])
def test_other_penalties(train: Dataset, potential: Baseline, kind: str) -> None:
    loss = Loss(energy=EnergyTerm(weight=0), forces=ForcesTerm(weight=1.0, kind=kind, delta=0.5))
    forces = np.concatenate([f for _, _, f in by_hand(train, potential)])
    size = np.abs(forces)
    expected = {
        "mae": size.mean(),
        "huber": np.where(size < 0.5, size**2 / 2, 0.5 * (size - 0.25)).mean(),
        "norm": np.linalg.norm(forces, axis=1).mean(),
    }[kind]
    assert value(train, loss, potential) == pytest.approx(expected, rel=1e-12)


def test_species_balanced_means_equal_weight_per_element(train: Dataset, potential: Baseline) -> None:
    loss = Loss(energy=EnergyTerm(weight=0), forces=ForcesTerm(weight=1.0, species="balanced"))
    forces = np.concatenate([f for _, _, f in by_hand(train, potential)])
    z = train.atomic_numbers.numpy()
    expected = np.mean([np.mean(forces[z == element] ** 2) for element in (1, 6, 8)])
    assert value(train, loss, potential) == pytest.approx(expected, rel=1e-12)


def test_species_given_by_symbol(train: Dataset) -> None:
    term = ForcesTerm.model_validate({"species": {"H": 0.1, "6": 2, 8: 3}})
    assert species_weights(term, train).weights[[1, 6, 8]].tolist() == [0.1, 2, 3]
    with pytest.raises(InputError, match="lacks O; give each element a weight"):
        species_weights(ForcesTerm(species={1: 1.0, 6: 1.0}), train)


def test_an_element_that_is_shared_counts_as_one_atom_in_each_structure() -> None:
    """Formate on copper: C, each O, H and all Cu one fifth each (NequIP, Methods), however many Cu there are."""
    rng = np.random.default_rng(0)
    numbers = [[6, 8, 8, 1, *[29] * n] for n in (48, 36, 3)]
    frames = [Structure(np.array(z), 9 * rng.random((len(z), 3)), forces=rng.normal(size=(len(z), 3))) for z in numbers]
    dataset = Dataset(frames, 1.0)
    errors = Errors(torch.zeros(3, dtype=torch.float64), -dataset.labels.forces, None)
    groups = [
        np.mean([np.mean(f[k] ** 2) for k in ([0], [1], [2], [3], slice(4, None))]) for f in map(forces_of, frames)
    ]
    for average in ("structures", "atoms"):
        term = ForcesTerm.model_validate({"weight": 2, "average": average, "species": FORMATE})
        loss = Loss(energy=EnergyTerm(weight=0), forces=term)
        sums = sums_of(errors, dataset.select(range(3)), loss, species_weights(term, dataset), Weights())
        assert float(total(loss, sums.numerators, sums.denominators)) == pytest.approx(2 * np.mean(groups), rel=1e-12)
        expected = expected_denominators(dataset, loss, species_weights(term, dataset), Weights())
        torch.testing.assert_close(3 * expected, sums.denominators)


def forces_of(frame: Structure) -> np.ndarray:
    assert frame.forces is not None
    return frame.forces


def test_the_preset_for_formate_has_the_published_weights() -> None:
    assert load_config("nequip-vii-formate").training.loss.forces.species == {29: "shared", "other": 1}


def test_every_stage_and_check_knows_every_term() -> None:
    """A stage changes each term's weight, and a loss with one weight alone is a loss."""
    for name in Loss.model_fields:
        weights = {other: {"weight": 0.0} for other in Loss.model_fields} | {name: {"weight": 1.0}}
        stage = {"start_epoch": 2, f"{name}_weight": 3.0}
        recipe = Recipe.model_validate({"loss": weights, "stage_two": stage})
        assert getattr(recipe.loss_in(2), name).weight == 3
        assert getattr(recipe.loss, name).weight == 1
    with pytest.raises(ValueError, match="all weights of the loss are zero"):
        Recipe.model_validate({"loss": {name: {"weight": 0.0} for name in Loss.model_fields}})


def test_weights_of_structures_and_atoms(train: Dataset, potential: Baseline) -> None:
    structures = torch.arange(len(train), dtype=torch.float64)
    atoms = torch.linspace(0, 1, train.n_atoms, dtype=torch.float64)
    rows = by_hand(train, potential)
    energy = np.average([(e / n) ** 2 for n, e, _ in rows], weights=structures)
    forces = np.concatenate([f for _, _, f in rows])
    per_atom = np.repeat(structures, [n for n, _, _ in rows]) * atoms.numpy()
    loss = Loss(energy=EnergyTerm(weight=2.0), forces=ForcesTerm(weight=7.0))
    expected = 2 * energy + 7 * np.average((forces**2).mean(1), weights=per_atom)
    assert value(train, loss, potential, Weights(structures, atoms)) == pytest.approx(expected, rel=1e-12)


def test_missing_labels_are_left_out(potential: Baseline) -> None:
    frames = labelled_frames(6)
    mixed = [
        replace(frames[0], forces=None),
        replace(frames[1], energy=None),
        replace(frames[2], energy=None, forces=None),
        frames[3],
    ]
    loss = Loss(energy=EnergyTerm(weight=2.0), forces=ForcesTerm(weight=7.0))
    energies = [row for number, row in enumerate(by_hand(Dataset(frames, CUTOFF), potential)) if number in (0, 3)]
    forces = np.concatenate([by_hand(Dataset(frames, CUTOFF), potential)[number][2] for number in (1, 3)])
    expected = 2 * np.mean([(e / n) ** 2 for n, e, _ in energies]) + 7 * np.mean(forces**2)
    assert value(Dataset(mixed, CUTOFF), loss, potential) == pytest.approx(expected, rel=1e-12)


def test_no_label_gives_zero_and_zero_gradients(potential: Baseline) -> None:
    bare = Dataset([replace(frame, energy=None, forces=None) for frame in labelled_frames(2)], CUTOFF)
    loss = Loss(stress=StressTerm(weight=1.0))
    errors, batch = predicted(bare, potential, stress=True)
    sums = sums_of(errors, batch, loss, EQUAL, Weights())
    result = total(loss, sums.numerators, sums.denominators)
    result.backward()
    assert float(result.detach()) == 0
    gradients = [p.grad for p in potential.parameters() if p.requires_grad]
    assert all(g is None or (g == 0).all() for g in gradients)
    assert metrics_of(loss, sums) == {"loss": 0.0}


def test_molecules_beside_crystals_do_not_poison_the_stress(potential: Baseline) -> None:
    crystals = labelled_frames(2, crystal=True)
    mixed, alone = Dataset([*crystals, *labelled_frames(2)], CUTOFF), Dataset(crystals, CUTOFF)
    loss = Loss(energy=EnergyTerm(weight=0), forces=ForcesTerm(weight=0), stress=StressTerm(weight=1.0))
    gradients = []
    for dataset in (mixed, alone):
        potential.zero_grad()
        errors, batch = predicted(dataset, potential, stress=True)
        sums = sums_of(errors, batch, loss, EQUAL, Weights())
        result = total(loss, sums.numerators, sums.denominators)
        result.backward()
        gradients.append([p.grad.clone() for p in potential.parameters() if p.grad is not None])
    assert float(result.detach()) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_metrics_against_numpy(train: Dataset, potential: Baseline) -> None:
    errors, batch = predicted(train, potential)
    metrics = metrics_of(Loss(), sums_of(errors, batch, Loss(), EQUAL, Weights()))
    rows = by_hand(train, potential)
    forces = np.concatenate([f for _, _, f in rows])
    per_atom = np.array([e / n for n, e, _ in rows])
    assert metrics["forces_mae"] == pytest.approx(np.abs(forces).mean())
    assert metrics["forces_rmse"] == pytest.approx(np.sqrt((forces**2).mean()))
    assert metrics["energy_per_atom_mae"] == pytest.approx(np.abs(per_atom).mean())
    assert metrics["energy_per_atom_rmse"] == pytest.approx(np.sqrt((per_atom**2).mean()))
    assert "stress_mae" not in metrics


def test_the_loss_does_not_depend_on_how_a_batch_is_divided(train: Dataset, potential: Baseline) -> None:
    sums = Sums.zeros()
    for indices in ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]):
        batch = train.select(indices)
        errors = errors_of(potential.predict(batch.graph), batch)
        sums = sums.plus(sums_of(errors, batch, Loss(), EQUAL, Weights()))
    assert float(total(Loss(), sums.numerators, sums.denominators)) == pytest.approx(
        value(train, Loss(), potential), rel=1e-12
    )


def test_a_term_without_any_label_is_an_error(train: Dataset) -> None:
    with pytest.raises(InputError, match=r"loss.stress.weight is 3 but none of the 12 training structures has stress"):
        check_labels(Loss(stress=StressTerm(weight=3)), train)
    check_labels(Loss(), train)


def test_float32_forces_and_float64_energies(train: Dataset) -> None:
    potential = network(dtype=torch.float32)
    batch = train.select([0, 1], torch.float32)
    prediction = potential.predict(batch.graph, differentiable=True)
    assert isinstance(prediction, Prediction)
    errors = errors_of(prediction, batch)
    assert errors.energy.dtype == torch.float64
    assert errors.forces.dtype == torch.float32
    sums = sums_of(errors, batch, Loss(), EQUAL, Weights())
    total(Loss(), sums.numerators, sums.denominators).backward()


def gradient(potential: Baseline, value: torch.Tensor) -> torch.Tensor:
    potential.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None])


@pytest.mark.parametrize("size", [1, 2, 5, 7])
@pytest.mark.parametrize("average", ["atoms", "structures"])
def test_batches_add_up_to_the_gradient_of_the_training_set_whatever_their_size(
    potential: Baseline, size: int, average: str
) -> None:
    """Sparse labels, unequal sizes and weights: each batch counts by its share of the structures."""
    frames = labelled_frames(14, crystal=True)
    frames = [replace(f, stress=f.stress if k % 7 == 0 else None) for k, f in enumerate(frames)]
    frames = [replace(f, forces=f.forces if k % 3 == 0 else None) for k, f in enumerate(frames)]
    dataset = Dataset(frames, CUTOFF)
    loss = Loss(forces=ForcesTerm(weight=5.0, average=average, species="balanced"), stress=StressTerm(weight=3.0))
    species = species_weights(loss.forces, dataset)
    weights = Weights(torch.linspace(1, 3, 14, dtype=torch.float64), torch.linspace(0.5, 1, dataset.n_atoms))
    expected = expected_denominators(dataset, loss, species, weights)

    def of(chosen: list[int]) -> torch.Tensor:
        batch = dataset.select(chosen)
        errors = errors_of(potential.predict(batch.graph, True, True, differentiable=True), batch)
        sums = sums_of(errors, batch, loss, species, weights)
        return gradient(potential, total(loss, sums.numerators, len(chosen) * expected))

    whole = dataset.select(range(14))
    errors = errors_of(potential.predict(whole.graph, True, True, differentiable=True), whole)
    sums = sums_of(errors, whole, loss, species, weights)
    full = gradient(potential, total(loss, sums.numerators, sums.denominators))
    batches = [list(range(k, min(k + size, 14))) for k in range(0, 14, size)]
    mean = sum(len(chosen) / 14 * of(chosen) for chosen in batches)
    torch.testing.assert_close(mean, full, rtol=1e-9, atol=1e-12)


def test_a_structures_weight_counts_where_it_is_alone(train: Dataset, potential: Baseline) -> None:
    loss, gradients = Loss(), []
    for weight in (1.0, 3.0):
        weights = Weights(torch.ones(12, dtype=torch.float64).index_fill(0, torch.tensor([4]), weight))
        expected = expected_denominators(train, loss, EQUAL, weights)
        found = []
        for chosen in ([4], [5]):
            batch = train.select(chosen)
            errors = errors_of(potential.predict(batch.graph, differentiable=True), batch)
            sums = sums_of(errors, batch, loss, EQUAL, weights)
            found.append(float(gradient(potential, total(loss, sums.numerators, expected)).norm()))
        gradients.append(found[0] / found[1])
    assert gradients[1] / gradients[0] == pytest.approx(3.0)


def test_with_equal_frames_a_batch_has_the_loss_of_its_own(potential: Baseline) -> None:
    dataset = Dataset(labelled_frames(12)[::2], CUTOFF)
    expected = expected_denominators(dataset, Loss(), EQUAL, Weights())
    batch = dataset.select([0, 3])
    sums = sums_of(errors_of(potential.predict(batch.graph), batch), batch, Loss(), EQUAL, Weights())
    assert float(total(Loss(), sums.numerators, 2 * expected)) == pytest.approx(
        float(total(Loss(), sums.numerators, sums.denominators)), rel=1e-12
    )


def test_validation_without_the_labels_of_the_loss() -> None:
    frames = labelled_frames(3)
    bare = Dataset([replace(f, forces=None, energy=None) for f in frames], CUTOFF)
    energies = Dataset([replace(f, forces=None) for f in frames], CUTOFF)
    loss = Loss()
    assert check_validation(loss, Dataset(frames, CUTOFF), "loss") is None
    assert check_validation(loss, energies, "loss") == (
        "no validation structure has forces: the validation loss is without"
    )
    with pytest.raises(InputError, match="the loss needs energy and forces, of which the 3 validation structures"):
        check_validation(loss, bare, "loss")
    only = Loss(energy=EnergyTerm(weight=0))
    with pytest.raises(InputError, match="the loss needs forces"):
        check_validation(only, energies, "loss")
    with pytest.raises(InputError, match="monitor is 'forces_rmse'"):
        check_validation(loss, energies, "forces_rmse")
