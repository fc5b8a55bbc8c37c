"""The loss, and the sums from which losses and error metrics of any number of batches and processes are formed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fireassay.data.datasets import Batch, Dataset
from fireassay.data.graph import sum_over_atoms
from fireassay.errors import InputError
from fireassay.potential import Prediction
from fireassay.training.recipe import EnergyTerm, ForcesTerm, Loss, StressTerm

# One vector holds all sums of a batch, so that processes and epochs add up with one operation:
# numerators of the loss (energy, forces, stress), their denominators, then |x|, x^2 and the count of each quantity.
N_SUMS = 15
QUANTITIES = ("energy_per_atom", "forces", "stress")
METRICS = ("loss", *(f"{quantity}_{kind}" for quantity in QUANTITIES for kind in ("mae", "rmse")))


class Errors(NamedTuple):
    """Predicted minus reference; zero where a label is missing."""

    energy: Tensor  # (S,) eV
    forces: Tensor | None  # (N, 3) eV/Å
    stress: Tensor | None  # (S, 3, 3) eV/Å^3


class Weights(NamedTuple):
    """Weights of structures and atoms in the loss, by their numbers in the training set; None for equal weights."""

    structures: Tensor | None = None  # (S,) of the whole training set
    atoms: Tensor | None = None  # (A,) of the whole training set

    def to(self, device: torch.device | str) -> Weights:
        """The same weights elsewhere."""
        return Weights(*(None if value is None else value.to(device) for value in self))


def errors_of(prediction: Prediction, batch: Batch) -> Errors:
    """Errors of a batch, in float64 for the energy and in the potential's dtype otherwise."""
    labels = batch.labels
    energy = prediction.energy.to(torch.float64) - labels.energy
    forces = stress = None
    if prediction.forces is not None:
        forces = _masked(prediction.forces - labels.forces, labels.has_forces.unsqueeze(1))
    if prediction.stress is not None:
        stress = _masked(prediction.stress - labels.stress, labels.has_stress.view(-1, 1, 1))
    return Errors(_masked(energy, labels.has_energy), forces, stress)


def loss_sums(errors: Errors, batch: Batch, loss: Loss, species_weights: Tensor, weights: Weights) -> Tensor:
    """Numerators and denominators (6,) float64 of the three terms; the first three are differentiable.

    The loss of one or many batches is `total(loss, sums)` of the summed sums. `species_weights` (119,) weighs the
    force error of each atomic number.
    """
    structure_weights = torch.ones_like(batch.labels.energy)
    if weights.structures is not None:
        structure_weights = weights.structures[batch.structures].to(torch.float64)
    energy = _energy_sums(errors.energy, batch, loss.energy, structure_weights)
    forces = stress = (structure_weights.new_zeros(()), structure_weights.new_zeros(()))
    if errors.forces is not None:
        forces = _forces_sums(errors.forces, batch, loss.forces, species_weights, structure_weights, weights.atoms)
    if errors.stress is not None:
        stress = _stress_sums(errors.stress, batch, loss.stress, structure_weights)
    terms = (energy, forces, stress)
    return torch.stack([term[0] for term in terms] + [term[1] for term in terms])


def metric_sums(errors: Errors, batch: Batch) -> Tensor:
    """Σ|x|, Σx² and the number of x (9,) float64, for x the energy error per atom, the force and stress components."""
    labels = batch.labels
    per_atom = errors.energy.detach() / _sizes(batch)
    values = [(per_atom, labels.has_energy.sum()), None, None]
    if errors.forces is not None:
        values[1] = (errors.forces.detach(), 3 * labels.has_forces.sum())
    if errors.stress is not None:
        values[2] = (errors.stress.detach(), 9 * labels.has_stress.sum())
    zero = per_atom.new_zeros(())
    parts: list[Tensor] = []
    for value in values:
        if value is None:
            parts += [zero, zero, zero]
        else:
            error = value[0].to(torch.float64)
            parts += [error.abs().sum(), error.square().sum(), value[1].to(torch.float64)]
    return torch.stack(parts)


def total(loss: Loss, sums: Tensor, denominators: Tensor | None = None) -> Tensor:
    """The loss, a scalar, of sums (6,) or longer: Σ weight · numerator / denominator, without the empty terms.

    `denominators` (3,) replace those in `sums` where a batch is spread over processes.
    """
    below = sums[3:6] if denominators is None else denominators
    factors = sums.new_tensor([loss.energy.weight, loss.forces.weight, loss.stress.weight])
    return (factors * sums[:3] / torch.where(below > 0, below, torch.ones_like(below))).sum()


def metrics_of(loss: Loss, sums: Tensor) -> dict[str, float]:
    """The loss and the MAE and RMSE of every quantity that has labels, from summed sums (15,).

    Energies in eV/atom, forces in eV/Å, stress in eV/Å^3, averaged over components.
    """
    values = sums.tolist()
    weights = (loss.energy.weight, loss.forces.weight, loss.stress.weight)
    terms = zip(weights, values[:3], values[3:6], strict=True)
    metrics = {"loss": float(sum(w * n / d for w, n, d in terms if d > 0))}
    for k, quantity in enumerate(QUANTITIES):
        absolute, square, count = values[6 + 3 * k : 9 + 3 * k]
        if count > 0:
            metrics[f"{quantity}_mae"] = absolute / count
            metrics[f"{quantity}_rmse"] = math.sqrt(square / count)
    return metrics


def species_weights(term: ForcesTerm, dataset: Dataset) -> Tensor:
    """Weight (119,) of each atomic number in the force loss.

    `balanced` gives each element of `dataset` the same total weight, as in NequIP's formate on copper.
    Raises InputError when given weights lack an element of the data set.
    """
    weights = torch.ones(119, dtype=torch.float64)
    if term.species == "balanced":
        counts = torch.bincount(dataset.atomic_numbers, minlength=119).to(torch.float64)
        present = counts > 0
        weights[present] = counts.sum() / (present.sum() * counts[present])
    elif isinstance(term.species, Mapping):
        missing = sorted(set(dataset.species) - set(term.species))
        if missing:
            raise InputError(f"loss.forces.species lacks the atomic numbers {missing}; give each element a weight")
        weights[list(term.species)] = torch.tensor(list(term.species.values()), dtype=torch.float64)
    return weights


def check_labels(loss: Loss, dataset: Dataset, where: str = "training") -> None:
    """Raises InputError when a term with a weight has no label in the whole data set, the sign of a missed key."""
    labels = dataset.labels
    found = {"energy": labels.has_energy, "forces": labels.has_forces, "stress": labels.has_stress}
    for name, mask in found.items():
        weight = getattr(loss, name).weight
        if weight > 0 and not bool(mask.any()):
            raise InputError(
                f"loss.{name}.weight is {weight:g} but none of the {len(dataset)} {where} structures has {name}; "
                f"map the file's key for {name}, or set loss.{name}.weight=0"
            )


def _energy_sums(error: Tensor, batch: Batch, term: EnergyTerm, structure_weights: Tensor) -> tuple[Tensor, Tensor]:
    scaled = error / _sizes(batch) if term.per_atom else error
    weights = structure_weights * batch.labels.has_energy
    return (weights * _penalty(scaled, term.kind, term.delta)).sum(), weights.sum()


def _forces_sums(
    error: Tensor,
    batch: Batch,
    term: ForcesTerm,
    species: Tensor,
    structure_weights: Tensor,
    atoms: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if term.kind == "norm":
        penalty = torch.linalg.vector_norm(error, dim=1).to(torch.float64)
    else:
        penalty = _penalty(error, term.kind, term.delta).mean(1).to(torch.float64)
    graph = batch.graph
    weights = species[graph.atomic_numbers] * batch.labels.has_forces
    if atoms is not None:
        weights = weights * atoms[batch.atoms]
    if term.average == "atoms":
        weights = weights * structure_weights[graph.structure]
        return (weights * penalty).sum(), weights.sum()
    below = sum_over_atoms(weights, graph)
    labelled = below > 0
    means = sum_over_atoms(weights * penalty, graph) / torch.where(labelled, below, torch.ones_like(below))
    per_structure = structure_weights * labelled
    return (per_structure * means).sum(), per_structure.sum()


def _stress_sums(error: Tensor, batch: Batch, term: StressTerm, structure_weights: Tensor) -> tuple[Tensor, Tensor]:
    penalty = _penalty(error, term.kind, term.delta).mean((1, 2)).to(torch.float64)
    weights = structure_weights * batch.labels.has_stress
    return (weights * penalty).sum(), weights.sum()


def _penalty(error: Tensor, kind: str, delta: float) -> Tensor:
    if kind == "mse":
        return error.square()
    if kind == "mae":
        return error.abs()
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def _masked(error: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, error, torch.zeros_like(error))


def _sizes(batch: Batch) -> Tensor:
    graph = batch.graph
    return torch.bincount(graph.structure, minlength=graph.n_structures)
