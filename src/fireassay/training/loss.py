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

QUANTITIES = ("energy_per_atom", "forces", "stress")
METRICS = ("loss", *(f"{quantity}_{kind}" for quantity in QUANTITIES for kind in ("mae", "rmse")))


class Sums(NamedTuple):
    """Sums over any number of batches, float64: of the loss's terms energy, forces and stress, and of `QUANTITIES`.

    A term's value is its numerator over its denominator. They add up as one `vector`, over processes, too.
    """

    numerators: Tensor  # (3,) Σ w penalty; differentiable within a step
    denominators: Tensor  # (3,) Σ w
    absolute: Tensor  # (3,) Σ |x|
    square: Tensor  # (3,) Σ x²
    count: Tensor  # (3,) of x

    @classmethod
    def zeros(cls, device: torch.device | str = "cpu") -> Sums:
        """No batch at all."""
        return cls.of(torch.zeros(3 * len(cls._fields), dtype=torch.float64, device=device))

    @classmethod
    def of(cls, vector: Tensor) -> Sums:
        """The sums of a `vector` (15,)."""
        return cls(*vector.view(len(cls._fields), 3))

    @property
    def vector(self) -> Tensor:
        """All of them (15,), detached."""
        return torch.cat([value.detach() for value in self])

    def plus(self, other: Sums) -> Sums:
        """With those of further batches."""
        return Sums.of(self.vector + other.vector)


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


def sums_of(errors: Errors, batch: Batch, loss: Loss, species_weights: Tensor, weights: Weights) -> Sums:
    """The sums of a batch, of which the numerators are differentiable.

    `species_weights` (119,) weighs the force error of each atomic number.
    """
    structure_weights = _structure_weights(batch, weights)
    zero = structure_weights.new_zeros(())
    terms = [_energy_sums(errors.energy, batch, loss.energy, structure_weights), (zero, zero), (zero, zero)]
    if errors.forces is not None:
        terms[1] = _forces_sums(errors.forces, batch, loss.forces, species_weights, structure_weights, weights.atoms)
    if errors.stress is not None:
        terms[2] = _stress_sums(errors.stress, batch, loss.stress, structure_weights)
    metrics = metric_sums(errors, batch)
    return Sums(torch.stack([term[0] for term in terms]), torch.stack([term[1] for term in terms]), *metrics)


def _structure_weights(batch: Batch, weights: Weights) -> Tensor:
    if weights.structures is None:
        return torch.ones_like(batch.labels.energy)
    return weights.structures[batch.structures].to(torch.float64)


def metric_sums(errors: Errors, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Σ|x|, Σx² and the number of x, (3,) each, for x the energy error per atom, the force and stress components."""
    labels = batch.labels
    per_atom = errors.energy.detach() / _sizes(batch)
    values = [(per_atom, labels.has_energy.sum()), None, None]
    if errors.forces is not None:
        values[1] = (errors.forces.detach(), 3 * labels.has_forces.sum())
    if errors.stress is not None:
        values[2] = (errors.stress.detach(), 9 * labels.has_stress.sum())
    zero = per_atom.new_zeros(())
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for value in values:
        if value is None:
            parts.append((zero, zero, zero))
        else:
            error = value[0].to(torch.float64)
            parts.append((error.abs().sum(), error.square().sum(), value[1].to(torch.float64)))
    absolute, square, count = (torch.stack(column) for column in zip(*parts, strict=True))
    return absolute, square, count


def total(loss: Loss, numerators: Tensor, denominators: Tensor) -> Tensor:
    """The loss, a scalar: Σ weight · numerator / denominator over the terms (3,), without the empty ones."""
    factors = numerators.new_tensor([loss.energy.weight, loss.forces.weight, loss.stress.weight])
    filled = denominators > 0
    return (factors * filled * numerators / torch.where(filled, denominators, torch.ones_like(denominators))).sum()


def expected_denominators(dataset: Dataset, loss: Loss, species_weights: Tensor, weights: Weights) -> Tensor:
    """The denominators (3,) that one structure of the training set has on average, on the CPU.

    The loss of a step on B structures is Σ weight · numerator / (B · this), so that its expectation over batches is the
    loss of the whole training set, whatever the batch size: a label that few structures have counts as much as it does
    there, in whichever batches it lies, and a structure's weight is not divided away where it is alone.
    """
    found = torch.zeros(3, dtype=torch.float64)
    labels, sizes = dataset.labels, dataset.structure_sizes
    per_structure = torch.ones(len(dataset), dtype=torch.float64)
    if weights.structures is not None:
        per_structure = weights.structures.detach().cpu().to(torch.float64)
    structure = torch.repeat_interleave(torch.arange(len(dataset)), sizes)
    per_atom = species_weights.cpu()[dataset.atomic_numbers] * labels.has_forces
    if weights.atoms is not None:
        per_atom = per_atom * weights.atoms.detach().cpu()
    found[0] = (per_structure * labels.has_energy).sum()
    if loss.forces.average == "atoms":
        found[1] = (per_atom * per_structure[structure]).sum()
    else:
        labelled = torch.zeros(len(dataset), dtype=torch.float64).index_add(0, structure, per_atom) > 0
        found[1] = (per_structure * labelled).sum()
    found[2] = (per_structure * labels.has_stress).sum()
    return found / max(len(dataset), 1)


def metrics_of(loss: Loss, sums: Sums) -> dict[str, float]:
    """The loss and the MAE and RMSE of every quantity that has labels, from summed sums.

    Energies in eV/atom, forces in eV/Å, stress in eV/Å^3, averaged over components.
    """
    metrics = {"loss": float(total(loss, sums.numerators.detach(), sums.denominators))}
    columns = zip(sums.absolute.tolist(), sums.square.tolist(), sums.count.tolist(), strict=True)
    for quantity, (absolute, square, count) in zip(QUANTITIES, columns, strict=True):
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


def check_validation(loss: Loss, dataset: Dataset, monitor: str) -> str | None:
    """A sentence on the terms of the loss that validation frames have no labels for; None when there is none.

    Raises InputError when they have labels for no term, or none for what is monitored: every epoch would look alike.
    """
    labels = dataset.labels
    found = {"energy": labels.has_energy, "forces": labels.has_forces, "stress": labels.has_stress}
    wanted = [name for name in found if getattr(loss, name).weight > 0]
    absent = [name for name in wanted if not bool(found[name].any())]
    if absent == wanted:
        raise InputError(
            f"the loss needs {' and '.join(wanted)}, of which the {len(dataset)} validation structures have none; "
            "take validation frames with these labels, or none at all"
        )
    watched = monitor.partition("_")[0]
    if watched in found and not bool(found[watched].any()):
        raise InputError(
            f"monitor is {monitor!r}, of which the {len(dataset)} validation structures have no label; monitor another "
            "metric, or take validation frames with that label"
        )
    if not absent:
        return None
    return f"no validation structure has {' or '.join(absent)}: the validation loss is without"


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
