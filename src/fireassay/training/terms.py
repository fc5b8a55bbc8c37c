"""The terms of the loss: what each one penalises, in a structure or an atom, and how much that counts.

A term's value is the weighted mean of its penalties. The loss, its normalisation by the training set, what is predicted
in a step and what is checked before a training all follow from `TERMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import torch
from ase.data import chemical_symbols
from torch import Tensor

from fireassay.data.datasets import Dataset
from fireassay.data.graph import Labels
from fireassay.errors import InputError
from fireassay.training.recipe import EnergyTerm, ForcesTerm, Loss, StressTerm

Label = Literal["energy", "forces", "stress"]
LABELS: Final[tuple[Label, ...]] = get_args(Label)


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


class SpeciesWeights(NamedTuple):
    """What an atom counts in the force loss by its element."""

    weights: Tensor  # (119,) float64, by atomic number
    shared: Tensor | None = (
        None  # (119,) bool: an element's atoms in one structure share the weight; None for no element
    )

    @classmethod
    def equal(cls) -> SpeciesWeights:
        """One for every atom."""
        return cls(torch.ones(119, dtype=torch.float64))

    def to(self, device: torch.device | str) -> SpeciesWeights:
        """The same weights elsewhere."""
        return SpeciesWeights(self.weights.to(device), None if self.shared is None else self.shared.to(device))

    def of(self, atomic_numbers: Tensor, structure: Tensor, n_structures: int) -> Tensor:
        """The weight (N,) of each atom, float64, of the elements (N,) and structures (N,) given."""
        if self.shared is None:
            return self.weights[atomic_numbers]
        place = structure * len(self.weights) + atomic_numbers
        counts = self.weights.new_zeros(n_structures * len(self.weights)).index_add(
            0, place, torch.ones_like(place, dtype=self.weights.dtype)
        )
        share = torch.where(self.shared[atomic_numbers], counts[place], 1.0)
        return self.weights[atomic_numbers] / share


class Weighed(NamedTuple):
    """What a term sees beside the errors: S structures with N atoms, their labels and what they count."""

    labels: Labels
    atomic_numbers: Tensor  # (N,) int64
    structure: Tensor  # (N,) int64, the index of each atom's structure
    structures: Tensor  # (S,) float64, the weight of each structure
    atoms: Tensor  # (N,) float64, the weight of each atom in its structure, by element and by itself

    @classmethod
    def of(
        cls, labels: Labels, atomic_numbers: Tensor, structure: Tensor, species: SpeciesWeights, weights: Weights
    ) -> Weighed:
        """With the weights of these structures (S,) and atoms (N,), and those of the elements."""
        structures = torch.ones_like(labels.energy)
        if weights.structures is not None:
            structures = weights.structures.to(torch.float64)
        atoms = species.of(atomic_numbers, structure, len(structures))
        return cls(
            labels, atomic_numbers, structure, structures, atoms if weights.atoms is None else atoms * weights.atoms
        )

    @property
    def sizes(self) -> Tensor:
        """The number of atoms of each structure, (S,) float64."""
        return self.sum_over_atoms(torch.ones_like(self.atoms))

    def sum_over_atoms(self, values: Tensor) -> Tensor:
        """Sums (S,) of values (N,) over the atoms of each structure."""
        return values.new_zeros(len(self.structures)).index_add(0, self.structure, values)

    def average(
        self, penalties: Tensor, weights: Tensor, over: Literal["atoms", "structures"]
    ) -> tuple[Tensor, Tensor]:
        """What a term returns for penalties and weights (N,) of atoms: these, or averages (S,) in each structure."""
        if over == "atoms":
            return penalties, weights * self.structures[self.structure]
        below = self.sum_over_atoms(weights)
        labelled = below > 0
        means = self.sum_over_atoms(weights * penalties) / torch.where(labelled, below, torch.ones_like(below))
        return means, self.structures * labelled


@dataclass(frozen=True)
class Term:
    """One term: the label that a structure needs for it, and its penalties and their weights, both (S,) or both (N,).

    `penalties` takes the term's settings, the errors (which are zero where a label is missing) and what they weigh. The
    weights must be zero where the label is missing and must not depend on the errors; both are float64, and the
    penalties are finite and differentiable wherever the errors are finite.
    """

    label: Label
    penalties: Callable[[Any, Errors, Weighed], tuple[Tensor, Tensor]]


def _energy(term: EnergyTerm, errors: Errors, frames: Weighed) -> tuple[Tensor, Tensor]:
    error = errors.energy / frames.sizes if term.per_atom else errors.energy
    return penalty(error, term.kind, term.delta), frames.structures * frames.labels.has_energy


def _forces(term: ForcesTerm, errors: Errors, frames: Weighed) -> tuple[Tensor, Tensor]:
    assert errors.forces is not None
    if term.kind == "norm":
        penalties = torch.linalg.vector_norm(errors.forces, dim=1).to(torch.float64)
    else:
        penalties = penalty(errors.forces, term.kind, term.delta).mean(1).to(torch.float64)
    return frames.average(penalties, frames.atoms * frames.labels.has_forces, term.average)


def _stress(term: StressTerm, errors: Errors, frames: Weighed) -> tuple[Tensor, Tensor]:
    assert errors.stress is not None
    penalties = penalty(errors.stress, term.kind, term.delta).mean((1, 2)).to(torch.float64)
    return penalties, frames.structures * frames.labels.has_stress


TERMS: Final[Mapping[str, Term]] = {
    "energy": Term("energy", _energy),
    "forces": Term("forces", _forces),
    "stress": Term("stress", _stress),
}
if list(TERMS) != list(Loss.model_fields):
    raise TypeError(
        f"terms.TERMS has {list(TERMS)}, recipe.Loss has {list(Loss.model_fields)}: give both the same, in order"
    )


def penalty(error: Tensor, kind: Literal["mse", "mae", "huber"], delta: float) -> Tensor:
    """The square, the size, or Huber's mixture of both, of every error, in the errors' shape."""
    if kind == "mse":
        return error.square()
    if kind == "mae":
        return error.abs()
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def species_weights(term: ForcesTerm, dataset: Dataset) -> SpeciesWeights:
    """What each element's atoms count in the force loss.

    `balanced` gives each element of `dataset` the same total weight; an element that is `shared` has the weight of one
    atom in every structure, whatever the number of its atoms, as copper in NequIP's formate on copper.
    Raises InputError when given weights lack an element of the data set.
    """
    found = SpeciesWeights.equal()
    if term.species == "balanced":
        counts = torch.bincount(dataset.atomic_numbers, minlength=119).to(torch.float64)
        present = counts > 0
        found.weights[present] = counts.sum() / (present.sum() * counts[present])
    elif isinstance(term.species, Mapping):
        given = dict(term.species)
        other = given.pop("other", None)
        missing = sorted(set(dataset.species) - set(given)) if other is None else []
        if missing:
            raise InputError(
                f"training.loss.forces.species lacks {', '.join(chemical_symbols[z] for z in missing)}; "
                "give each element a weight, or one to `other`"
            )
        chosen = [given.get(number, other) for number in range(119)]
        numbers = [weight if isinstance(weight, (int, float)) else 1.0 for weight in chosen]
        found.weights[:] = torch.tensor(numbers, dtype=torch.float64)
        if "shared" in chosen:
            return found._replace(shared=torch.tensor([weight == "shared" for weight in chosen]))
    return found
