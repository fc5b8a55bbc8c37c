"""The loss, and the sums from which losses and error metrics of any number of batches and processes are formed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fireassay.data.advice import keys_option
from fireassay.data.datasets import Batch, Dataset
from fireassay.errors import InputError
from fireassay.potential import Prediction
from fireassay.training.recipe import Loss
from fireassay.training.terms import LABELS, TERMS, Errors, Label, SpeciesWeights, Weighed, Weights

QUANTITIES = ("energy_per_atom", "forces", "stress")
METRICS = ("loss", *(f"{quantity}_{kind}" for quantity in QUANTITIES for kind in ("mae", "rmse")))


class Sums(NamedTuple):
    """Sums over any number of batches, float64: of the T terms of the loss, in their order, and of `QUANTITIES`.

    A term's value is its numerator over its denominator. They add up as one `vector`, over processes, too.
    """

    numerators: Tensor  # (T,) Σ w penalty; differentiable within a step
    denominators: Tensor  # (T,) Σ w
    absolute: Tensor  # (3,) Σ |x|
    square: Tensor  # (3,) Σ x²
    count: Tensor  # (3,) of x

    @classmethod
    def zeros(cls, device: torch.device | str = "cpu") -> Sums:
        """No batch at all."""
        return cls.of(torch.zeros(sum(_SIZES), dtype=torch.float64, device=device))

    @classmethod
    def of(cls, vector: Tensor) -> Sums:
        """The sums of a `vector` (2 T + 9,)."""
        return cls(*torch.split(vector, _SIZES))

    @property
    def vector(self) -> Tensor:
        """All of them (2 T + 9,), detached."""
        return torch.cat([value.detach() for value in self])

    def plus(self, other: Sums) -> Sums:
        """With those of further batches."""
        return Sums.of(self.vector + other.vector)


_SIZES = [len(TERMS)] * 2 + [len(QUANTITIES)] * 3


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


def sums_of(errors: Errors, batch: Batch, loss: Loss, species: SpeciesWeights, weights: Weights) -> Sums:
    """The sums of a batch, of which the numerators are differentiable. Terms without a weight stay zero."""
    graph = batch.graph
    chosen = Weights(
        None if weights.structures is None else weights.structures[batch.structures],
        None if weights.atoms is None else weights.atoms[batch.atoms],
    )
    frames = Weighed.of(batch.labels, graph.atomic_numbers, graph.structure, species, chosen)
    return Sums(*_term_sums(errors, frames, loss), *metric_sums(errors, batch))


def _term_sums(errors: Errors, frames: Weighed, loss: Loss) -> tuple[Tensor, Tensor]:
    """Numerators and denominators (T,) of the terms."""
    zero = frames.structures.new_zeros(())
    numerators, denominators = [zero] * len(TERMS), [zero] * len(TERMS)
    for place, (name, term) in enumerate(TERMS.items()):
        settings = getattr(loss, name)
        if settings.weight > 0 and getattr(errors, term.label) is not None:
            penalties, weights = term.penalties(settings, errors, frames)
            numerators[place], denominators[place] = (weights * penalties).sum(), weights.sum()
    return torch.stack(numerators), torch.stack(denominators)


def needed(loss: Loss, label: Label) -> bool:
    """Whether a term with a weight needs this label, and so its prediction."""
    return any(getattr(loss, name).weight > 0 for name, term in TERMS.items() if term.label == label)


def metric_sums(errors: Errors, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Σ|x|, Σx² and the number of x, (3,) each, for x the energy error per atom, the force and stress components."""
    labels = batch.labels
    per_atom = errors.energy.detach() / torch.bincount(batch.graph.structure, minlength=batch.graph.n_structures)
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
    """The loss, a scalar: Σ weight · numerator / denominator over the terms (T,), without the empty ones."""
    factors = numerators.new_tensor([getattr(loss, name).weight for name in TERMS])
    filled = denominators > 0
    return (factors * filled * numerators / torch.where(filled, denominators, torch.ones_like(denominators))).sum()


def expected_denominators(dataset: Dataset, loss: Loss, species: SpeciesWeights, weights: Weights) -> Tensor:
    """The denominators (T,) that one structure of the training set has on average, on the CPU.

    The loss of a step on B structures is Σ weight · numerator / (B · this), so that its expectation over batches is the
    loss of the whole training set, whatever the batch size: a label that few structures have counts as much as it does
    there, in whichever batches it lies, and a structure's weight is not divided away where it is alone.
    """
    sums, of_all = [], weights.to("cpu")
    first_atom = dataset.structure_sizes.cumsum(0) - dataset.structure_sizes
    for chosen in dataset.blocks():
        labels = dataset.labels_at(chosen)
        numbers, structure = dataset.numbers_at(chosen)
        at = int(first_atom[chosen[0]])
        of_block = Weights(
            None if of_all.structures is None else of_all.structures[chosen],
            None if of_all.atoms is None else of_all.atoms[at : at + len(numbers)],
        )
        frames = Weighed.of(labels, numbers, structure, species.to("cpu"), of_block)
        nothing = Errors(*(torch.zeros_like(value) for value in (labels.energy, labels.forces, labels.stress)))
        sums.append(_term_sums(nothing, frames, loss)[1])
    return torch.stack(sums).sum(0) / max(len(dataset), 1)


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


def check_labels(loss: Loss, dataset: Dataset, where: str = "training") -> None:
    """Raises InputError when a term with a weight has no label in the whole data set, the sign of a missed key."""
    found = _labelled(dataset)
    for name, term in TERMS.items():
        weight = getattr(loss, name).weight
        if weight > 0 and not found[term.label]:
            raise InputError(
                f"training.loss.{name}.weight is {weight:g} but none of the {len(dataset)} {where} structures has "
                f"{term.label}; name the file's key with {keys_option({term.label: 'KEY'})}, or set "
                f"training.loss.{name}.weight=0"
            )


def check_validation(loss: Loss, dataset: Dataset, monitor: str) -> str | None:
    """A sentence on the terms of the loss that validation frames have no labels for; None when there is none.

    Raises InputError when they have labels for no term, or none for what is monitored: every epoch would look alike.
    """
    found = _labelled(dataset)
    wanted = [label for label in LABELS if needed(loss, label)]
    absent = [label for label in wanted if not found[label]]
    if absent == wanted:
        raise InputError(
            f"the loss needs {' and '.join(wanted)}, of which the {len(dataset)} validation structures have none; "
            "take validation frames with these labels, or none at all"
        )
    watched = monitor.partition("_")[0]
    if watched in found and not found[watched]:
        raise InputError(
            f"monitor is {monitor!r}, of which the {len(dataset)} validation structures have no label; monitor another "
            "metric, or take validation frames with that label"
        )
    if not absent:
        return None
    return f"no validation structure has {' or '.join(absent)}: the validation loss is without"


def _labelled(dataset: Dataset) -> dict[str, bool]:
    return {label: dataset.labelled[label] for label in LABELS}


def _masked(error: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, error, torch.zeros_like(error))
