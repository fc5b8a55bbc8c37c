"""The seam: what a potential is, and the one place where forces and stress are derived.

With a strain ε (S, 3, 3) that maps positions and cell by (1 + sym ε), forces are -dE/dx and stress is (1/V) dE/dε
at ε = 0 (Knuth et al., Comput. Phys. Commun. 190, 33, 2015): positive in tension, the sign of ASE.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, sum_over_atoms
from fireassay.errors import InputError
from fireassay.nn.embedding import SpeciesIndex


class Prediction(NamedTuple):
    """What a potential says of a graph of S structures and N atoms; None where it was not asked or cannot say."""

    energy: Tensor  # (S,) eV
    forces: Tensor | None = None  # (N, 3) eV/Å
    stress: Tensor | None = None  # (S, 3, 3) eV/Å^3, positive in tension; NaN where the cell has no volume
    atom_energies: Tensor | None = None  # (N,) eV
    descriptors: Tensor | None = None  # (N, D), invariant

    def detach(self) -> Prediction:
        """The same values, cut from the autograd graph."""
        return Prediction(self.energy.detach(), *(None if value is None else value.detach() for value in self[1:]))


@runtime_checkable
class Predictor(Protocol):
    """Anything that predicts: every `Potential`, and a third-party calculator behind an adapter."""

    @property
    def cutoff(self) -> float:
        """How far the edges of a graph have to reach, in Å; 0 when it needs none."""
        ...

    @property
    def species(self) -> tuple[int, ...] | None:
        """The atomic numbers that it knows, None when it takes any."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which it wants positions and cell."""
        ...

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        """Energy, and on request forces and stress, of every structure of the graph."""
        ...


@runtime_checkable
class Failing(Protocol):
    """A predictor whose calculations may fail for one structure and not for the others: NaN there, and why."""

    @property
    def failures(self) -> Mapping[int, str]:
        """The structures of the last `predict` that failed, by their number in the graph, and what was said."""
        ...


def failures_of(predictor: Predictor) -> Mapping[int, str]:
    """What failed in the last `predict`; nothing with a predictor that cannot fail so."""
    return predictor.failures if isinstance(predictor, Failing) else {}


def check_species(predictor: Predictor, atomic_numbers: Sequence[int]) -> None:
    """Raises InputError when an element is not among the predictor's `species`."""
    known = predictor.species
    unknown = sorted(set(atomic_numbers) - set(known)) if known is not None else []
    if unknown:
        raise InputError(
            f"atomic numbers {unknown} are unknown to the potential, which knows {list(known or ())}; "
            "leave these frames out or train with them"
        )


def constructor_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor as JSON values, for `Potential.arguments`; `given` are its `locals()` before it
    has made any name of its own.

    Sequences become lists, and `self` and `__class__` are left out.
    """
    return {name: _as_json(value) for name, value in given.items() if name not in ("self", "__class__")}


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


class Potential(nn.Module, ABC):
    """An energy as a differentiable function of a graph.

    `arguments` holds the constructor's arguments as JSON values (a wrapped potential as itself), from which an equal
    architecture is rebuilt; set it in `__init__`, most simply by `constructor_arguments(locals())`. `species` are the
    atomic numbers that the potential knows, None when it takes any; `cutoff` in Å is how far it sees in one layer.
    `uses` says which of "charge" and "spin" of a graph its energy depends on; what it does not name is ignored, or
    refused.
    """

    arguments: dict[str, Any]
    species: tuple[int, ...] | None = None
    cutoff: float = 0.0
    uses: frozenset[str] = frozenset()

    @property
    def dtype(self) -> torch.dtype:
        """That of its first parameter, or of its first buffer; float64 without any."""
        tensors = (*self.parameters(), *self.buffers())
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)

    @abstractmethod
    def energy(self, graph: Graph) -> Tensor:
        """Energy (S,) in eV, differentiable in positions, cell and parameters."""

    def _evaluate(self, graph: Graph) -> Prediction:
        return Prediction(self.energy(graph))

    def predict(
        self, graph: Graph, forces: bool = True, stress: bool = False, *, differentiable: bool = False
    ) -> Prediction:
        """Energy and its derivatives, with atom energies and descriptors where the potential has them.

        The graph is not modified. The output is detached unless `differentiable`, which keeps the graph of the
        derivatives, so that a loss on forces and stress can be differentiated in the parameters.
        """
        with torch.enable_grad():
            leaves: list[Tensor] = []
            if forces or stress:
                graph = graph._replace(positions=graph.positions.detach().requires_grad_())
                leaves.append(graph.positions)
            if stress:
                strain = torch.zeros_like(graph.cell).requires_grad_()
                leaves.append(strain)
                graph = _strained(graph, strain)
            if leaves or differentiable:
                prediction = self._evaluate(graph)
            else:
                with torch.no_grad():
                    prediction = self._evaluate(graph)
            if leaves:
                gradients = _gradients(prediction.energy, leaves, differentiable)
                if forces:
                    prediction = prediction._replace(forces=-gradients[0])
                if stress:
                    prediction = prediction._replace(stress=_per_volume(gradients[-1], graph))
        return prediction if differentiable else prediction.detach()

    def frozen(self) -> Self:
        """An inference-only equivalent: same predictions (to rounding), possibly faster, weights not to be changed."""
        twin = copy.deepcopy(self).eval()
        return twin.requires_grad_(False)

    def check_species(self, atomic_numbers: Sequence[int]) -> None:
        """Raises InputError when an element is not among `species`."""
        check_species(self, atomic_numbers)


class LocalPotential(Potential, ABC):
    """A potential whose energy is a sum over atoms, each of which sees no farther than `cutoff` Å per layer.

    `published` names, by law of the contract (`fireassay.testing.LAWS`), the constructor arguments that give a
    published form which breaks that law.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV and invariant descriptors (N, D), the features that enter the readout."""

    def energy(self, graph: Graph) -> Tensor:
        """Energy (S,) in eV: the sum of the atom energies."""
        return sum_over_atoms(self.local(graph)[0], graph)

    def _evaluate(self, graph: Graph) -> Prediction:
        atom_energies, descriptors = self.local(graph)
        return Prediction(sum_over_atoms(atom_energies, graph), None, None, atom_energies, descriptors)


class NetworkPotential(LocalPotential, ABC):
    """A local potential of a network, with energies relative to isolated atoms: the one place that keeps law 12.

    A model hands `species` and the cutoff in Å to this constructor, and implements `network`. Its atoms without
    neighbours may have any energy, which `local` takes off: they go through the network as one more atom of each
    species, and a frozen twin knows their energies beforehand. With `isolated_is_zero` the network promises that an
    atom without neighbours has an energy of exactly zero, and nothing is added or taken off.

    Raises InputError for species that are not distinct atomic numbers.
    """

    def __init__(self, species: Sequence[int], cutoff: float, isolated_is_zero: bool = False) -> None:
        super().__init__()
        self.index = SpeciesIndex(species)
        self.species, self.cutoff = self.index.species, float(cutoff)
        self.isolated_is_zero = isolated_is_zero
        self.register_buffer("isolated", None, persistent=False)

    isolated: Tensor | None  # (Z,) eV, where they are known

    @abstractmethod
    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV and descriptors (R, D) of atoms of the species rows (R,).

        The first N rows are the atoms of the graph. More may follow: atoms that no edge reaches.
        """

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV relative to isolated atoms, and the descriptors (N, D) of `network`.

        Raises InputError for an element that is not in `species`.
        """
        rows = self.index(graph.atomic_numbers)
        if self.isolated_is_zero:
            return self.network(rows, graph)
        if self.isolated is not None:
            energies, descriptors = self.network(rows, graph)
            return energies - self.isolated.index_select(0, rows), descriptors
        every = torch.cat([rows, torch.arange(len(self.index), device=rows.device)])
        energies, descriptors = self.network(every, graph)
        isolated = energies[len(rows) :].index_select(0, rows)
        return energies[: len(rows)] - isolated, descriptors[: len(rows)]

    def isolated_energies(self) -> Tensor:
        """Energies (Z,) in eV that `network` gives to an atom of each species without neighbours."""
        rows = torch.arange(len(self.index), device=self.index.index.device)
        none, blank = rows[:0], next(self.parameters()).new_zeros(len(rows), 3, 3)
        alone = Graph(
            atomic_numbers=rows.new_tensor(self.index.species),
            positions=blank[:, 0],
            cell=blank,
            pbc=blank[:, 0].bool(),
            structure=rows,
            centre=none,
            neighbour=none,
            shift=none.new_zeros(0, 3),
        )
        return self.network(rows, alone)[0]

    def frozen(self) -> Self:
        """A twin for inference to which the energies of isolated atoms are known; models make more of it."""
        twin = cast(Self, super().frozen())
        if twin.isolated is None and not twin.isolated_is_zero:
            with torch.no_grad():
                twin.isolated = twin.isolated_energies()
        return twin


class Baseline(LocalPotential):
    """A potential on top of isolated-atom energies: E_i = E0(z_i) + scale(z_i) * ε_i + shift(z_i).

    The sum is formed in float64 whatever the network's dtype, because a total energy of -10^4 eV does not fit into
    float32 to the precision of its differences. `scale` and `shift` are per species (NequIP, eq. 10), numbers or
    mappings from atomic number, and can be trained. With a shift of zero an isolated atom has exactly E0.

    Raises InputError when E0 lacks a species of the potential.
    """

    def __init__(
        self,
        potential: LocalPotential,
        e0: Mapping[int, float],
        scale: float | Mapping[int, float] = 1.0,
        shift: float | Mapping[int, float] = 0.0,
        trainable_scale: bool = False,
        trainable_shift: bool = False,
    ) -> None:
        super().__init__()
        e0 = {int(z): float(value) for z, value in e0.items()}
        missing = sorted(set(potential.species or ()) - set(e0))
        if missing:
            raise InputError(f"isolated-atom energies lack the atomic numbers {missing}; give or fit them")
        scales = _per_species(scale, e0)
        shifts = _per_species(shift, e0)
        self.arguments = {
            "potential": potential,
            "e0": e0,
            "scale": scales,
            "shift": shifts,
            "trainable_scale": trainable_scale,
            "trainable_shift": trainable_shift,
        }
        self.potential = potential
        self.cutoff = potential.cutoff
        self.species = potential.species
        self.uses = potential.uses
        dtype = next((p.dtype for p in potential.parameters()), torch.get_default_dtype())
        table = torch.zeros(119, dtype=torch.float64)
        table[list(e0)] = torch.tensor(list(e0.values()), dtype=torch.float64)
        self.e0 = _Float64(table)
        row = torch.zeros(119, dtype=torch.int64)
        row[sorted(e0)] = torch.arange(len(e0))
        self.register_buffer("row", row, persistent=False)
        self.scale = nn.Parameter(torch.tensor([scales[z] for z in sorted(e0)], dtype=dtype), trainable_scale)
        self.shift = nn.Parameter(torch.tensor([shifts[z] for z in sorted(e0)], dtype=dtype), trainable_shift)

    row: Tensor

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV, float64, and the inner potential's descriptors (N, D)."""
        energies, descriptors = self.potential.local(graph)
        rows = self.row[graph.atomic_numbers]
        learned = energies * self.scale[rows] + self.shift[rows]
        return self.e0.table[graph.atomic_numbers] + learned.to(torch.float64), descriptors

    def frozen(self) -> Baseline:
        """The same baseline on the inner potential's frozen equivalent."""
        given = {name: value for name, value in self.arguments.items() if name != "potential"}
        twin = Baseline(self.potential.frozen(), **given).to(self.scale.device)
        twin.scale, twin.shift = (nn.Parameter(p.detach().clone()) for p in (self.scale, self.shift))
        return twin.eval().requires_grad_(False)


class Sum(LocalPotential):
    """The sum of local potentials, which is local again: a repulsive core or a dispersion correction beside a network.

    Atom energies are formed in float64; descriptors and parameters' dtype are those of the first. Raises InputError for
    an empty sum.
    """

    def __init__(self, potentials: Sequence[LocalPotential]) -> None:
        super().__init__()
        self.arguments = {"potentials": list(potentials)}
        self.potentials = nn.ModuleList(potentials)
        self.species = _known_to_all(potentials)
        self.uses = frozenset().union(*(p.uses for p in potentials))
        self.cutoff = max(p.cutoff for p in potentials)

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV, float64, and the first potential's descriptors (N, D)."""
        terms = [potential.local(graph) for potential in self.potentials]  # type: ignore[operator]
        return torch.stack([energies.to(torch.float64) for energies, _ in terms]).sum(0), terms[0][1]

    def frozen(self) -> Sum:
        """The sum of the frozen equivalents."""
        return Sum([potential.frozen() for potential in self.potentials]).eval()  # type: ignore[operator]


def _known_to_all(potentials: Sequence[Potential]) -> tuple[int, ...] | None:
    """The species that every term of a sum knows, None when none of them has a list. Raises InputError for no terms."""
    if not potentials:
        raise InputError("a sum needs at least one potential")
    known = [set(p.species) for p in potentials if p.species is not None]
    return tuple(sorted(set.intersection(*known))) if known else None


class _Float64(nn.Module):
    """A table that stays in float64 when the module around it changes its dtype."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        kept = self.table
        super()._apply(fn, recurse)
        self.table = kept.to(self.table.device)
        return self


def _per_species(value: float | Mapping[int, float], e0: Mapping[int, float]) -> dict[int, float]:
    if isinstance(value, Mapping):
        given = {int(z): float(v) for z, v in value.items()}
        missing = sorted(set(e0) - set(given))
        if missing:
            raise InputError(f"per-species values {given} lack the atomic numbers {missing}")
        return {z: given[z] for z in e0}
    return {z: float(value) for z in e0}


def _strained(graph: Graph, strain: Tensor) -> Graph:
    symmetric = (strain + strain.transpose(1, 2)) / 2
    per_atom = symmetric.index_select(0, graph.structure)  # (N, 3, 3)
    return graph._replace(
        positions=graph.positions + torch.bmm(graph.positions.unsqueeze(1), per_atom).squeeze(1),
        cell=graph.cell + torch.bmm(graph.cell, symmetric),
    )


def _gradients(energy: Tensor, leaves: list[Tensor], differentiable: bool) -> list[Tensor]:
    if not energy.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    gradients = torch.autograd.grad(energy.sum(), leaves, create_graph=differentiable, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


def _per_volume(gradient: Tensor, graph: Graph) -> Tensor:
    volume = torch.linalg.det(graph.cell.detach()).abs().view(-1, 1, 1)
    solid = (volume > 0) & graph.pbc.any(1).view(-1, 1, 1)
    # Dividing by one where there is no volume keeps NaN out of the gradients of a loss that masks these rows.
    return torch.where(solid, gradient / torch.where(solid, volume, 1.0), torch.nan)
